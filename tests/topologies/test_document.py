"""YAML without surprises: everything is what it looks like, or it is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import StrictBool

import topologies
from topologies import InputError
from topologies.document import Document, Settings, parse_json, parse_yaml, read_text
from topologies.fields import Bytes, Seconds


class Inner(Settings):
    delay: Seconds
    sizes: tuple[Bytes, ...] = ()


class Outer(Settings):
    name: str = "x"
    inner: Inner
    many: tuple[Inner, ...] = ()
    on: StrictBool = False


def refusal(text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "file.yaml")
    return caught.value


def complaint(text: str) -> InputError:
    document = parse_yaml(text, "file.yaml")
    with pytest.raises(InputError) as caught:
        document.read(Outer, document.mapping())
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("True", "True"),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("12", 12),
        ("-1.5e3", -1500.0),
        ("012", "012"),
        ("0x1F", "0x1F"),
        ("1_000", "1_000"),
        (".5", ".5"),
        ("1.", "1."),
        ("+1", "+1"),
        (".inf", ".inf"),
        (".nan", ".nan"),
        ("1e999", "1e999"),
        ("2024-01-01", "2024-01-01"),
        ("10%", "10%"),
        ("+150 ms", "+150 ms"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("'1:30'", "1:30"),
        ("3.1.2", "3.1.2"),
    ],
)
def test_a_plain_word_means_what_it_looks_like(text, value):
    document = parse_yaml(f"key: {text}\n", "file.yaml")
    assert document.value == {"key": value}
    assert type(document.value["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\nb: 1:30\n", 2, '"1:30" could be a time of day'),
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "twice"),
        ("a: 1\nb: !!python/object:os.system {}\n", 2, "tag"),
        ("a: &x 1\nb: 2\n", 1, "anchors"),
        ("a: !!str 1\nb: [\n", 3, "not YAML"),
        ("? [a, b]\n: 1\n", 1, "a key has to be a word"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: 1\nb:\n\t- 2\n", 3, "not YAML"),
        ("a: 1\nb: x\x00y\n", 2, "U+0000"),
    ],
)
def test_what_could_mean_two_things_is_refused_with_its_line(text, line, words):
    error = refusal(text)
    assert words in str(error)
    assert error.line == line
    assert str(error).startswith(f"file.yaml:{line}: ")


def test_an_empty_file_and_an_endless_nesting_are_refused():
    assert "empty" in str(refusal("# nothing\n"))
    deep = "\n".join(" " * depth + "a:" for depth in range(800))
    assert "nested too deeply" in str(refusal(deep))


def test_an_alias_that_would_grow_without_bound_is_refused():
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    assert "anchors" in str(refusal(bomb))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "inner:\n  dealy: 3 s\n",
            'file.yaml:2: inner > dealy: there is no such setting. Did you mean "delay"? '
            "The settings here are delay, sizes",
        ),
        ("inner: {}\n", "file.yaml:1: inner > delay: this setting is missing"),
        ("inner:\n  delay: 3\n", 'file.yaml:2: inner > delay: "3" has no unit'),
        ("inner: 3\n", 'inner: a mapping of settings was expected here, not "3"'),
        (
            "inner: {delay: 3 s}\nmany:\n  - delay: 1 s\n  - delay: 1 s\n    sizes: [1 B, 1 x]\n",
            'file.yaml:5: many #2 > sizes #2: "x" in "1 x" is not a unit of size',
        ),
        ("inner: {delay: 3 s}\nname: 5\n", 'name: text was expected here, not "5"'),
        ("inner: {delay: 3 s}\non: yes\n", 'on: true or false was expected here, not "yes"'),
        ("inner: {delay: 3 s}\nmany: 4\n", 'many: a list was expected here, not "4"'),
        ("- 1\n", "file.yaml:1: a mapping of settings was expected here, not a list"),
    ],
)
def test_an_error_names_file_line_key_and_remedy(text, message):
    assert message in str(complaint(text))


def test_of_several_errors_the_first_in_the_file_is_told_and_the_others_counted():
    error = complaint("name: 4\ninner: {delay: 1}\non: 3\n")
    assert error.key == "name"
    assert "the first of 3 problems" in str(error)


def test_a_setting_is_known_only_by_the_name_it_has_in_files():
    from faults.scenario import Fault

    assert "for" in Fault.settings()
    document = Document("f", {"at": "1 s", "crash": "a", "for_": "1 s"})
    with pytest.raises(InputError, match='Did you mean "for"'):
        document.read(Fault, document.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": NaN}', "NaN is no number"),
        ('{"a": \n oops}', "not JSON"),
        ("[" * 200_000, "too deeply"),
    ],
)
def test_json_is_as_strict(text, words):
    with pytest.raises(InputError, match=words):
        parse_json(text, "file.json")


def test_a_file_that_can_not_be_read_says_so(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00bad")
    for path, words in [
        (tmp_path / "missing.yaml", "no such file"),
        (tmp_path, "folder"),
        (tmp_path / "bytes.yaml", "not text"),
    ]:
        with pytest.raises(InputError, match=words):
            read_text(path)


def test_errors_cross_to_other_processes_whole():
    import pickle

    error = pickle.loads(pickle.dumps(refusal("a: 1\nb: 1:30\n")))
    assert str(error) == str(refusal("a: 1\nb: 1:30\n"))


@pytest.mark.parametrize("name", ["edge-clusters", "continent", "zoo-geant"])
def test_both_readers_of_yaml_say_the_same(name, monkeypatch):
    path = Path(topologies.__file__).with_name("catalog") / f"{name}.yaml"
    text = read_text(path)
    assert hasattr(yaml, "CBaseLoader"), "libyaml comes with every wheel of PyYAML"
    fast = parse_yaml(text, name)
    monkeypatch.delattr(yaml, "CBaseLoader")
    slow = parse_yaml(text, name)
    assert fast.value == slow.value
    assert fast.lines == slow.lines


def test_text_that_is_no_unicode_is_refused():
    assert "U+D800" in str(refusal("a: \ud800"))


@pytest.mark.parametrize("nothing", ["", "null", "~"])
def test_a_setting_without_a_value_is_refused_where_it_stands(nothing):
    error = complaint(f"inner:\n  delay: 1 s\nmany:\n  - delay: 1 s\n    sizes: {nothing}\n")
    said = "file.yaml:5: many #1 > sizes: nothing stands here. Write its value, or leave it out"
    assert said in str(error)

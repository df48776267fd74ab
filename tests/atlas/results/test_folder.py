from __future__ import annotations

import json
from contextlib import suppress

import pytest
import yaml

from atlas.results.folder import RunFolder, is_run, read_run
from atlas.results.manifest import Manifest
from atlas.results.summary import summarize
from topologies import InputError


def test_what_was_written_is_read_back(tmp_path, story):
    manifest = Manifest.here(name="test", seed=3, truth=story.truth, steps_expected=240)
    summary = summarize(story.notes, truth=story.truth, steps_expected=240)
    with RunFolder(tmp_path / "runs" / "1") as folder:
        folder.write_manifest(manifest)
        folder.write_config({"seed": 3, "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]}})
        folder.write_faults("name: none\n")
        for note in story.notes:
            folder.note(note)
        folder.write_summary(summary)
    record = read_run(folder.path)
    assert record.manifest == manifest
    assert record.summary == summary
    assert len(record.notes) == len(story.notes)
    assert record.faults == "name: none\n"
    assert yaml.safe_load(record.config) == {
        "seed": 3,
        "lora": {"rank": 8, "targets": ["q_proj", "v_proj"]},
    }
    assert record.config.startswith("seed: 3\nlora:\n"), "the order is the author's"
    assert [path.name for path in folder.written()] == [
        *("config.yaml", "manifest.json", "metrics.jsonl", "faults.yaml", "summary.json"),
    ]


def test_the_summary_is_sorted_and_equal_for_equal_runs(tmp_path, story):
    texts = []
    for name in ("a", "b"):
        with RunFolder(tmp_path / name) as folder:
            folder.write_summary(summarize(story.notes, truth=story.truth, steps_expected=240))
        texts.append(folder.summary.read_text())
    assert texts[0] == texts[1]
    assert list(json.loads(texts[0])) == sorted(json.loads(texts[0]))


def test_a_note_is_on_disk_before_the_folder_is_closed(tmp_path, say):
    folder = RunFolder(tmp_path / "run")
    folder.note(say(1.0, "signature", bytes=5))
    assert [note.time_s for note in read_run(folder.path).notes] == [1.0]
    folder.close()


def test_the_folder_of_a_run_that_was_broken_off_is_readable(tmp_path, story):
    with suppress(KeyboardInterrupt), RunFolder(tmp_path / "run") as folder:
        for note in story.notes[:100]:
            folder.note(note)
        raise KeyboardInterrupt
    with folder.metrics.open("a") as file:
        file.write('{"time_s": 12')
    record = read_run(folder.path)
    assert len(record.notes) == 100
    assert (record.summary, record.config, record.faults) == (None, "", "")


def test_a_folder_with_other_things_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="--out") as error:
        RunFolder(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_earlier_run_is_never_overwritten(tmp_path, say):
    with RunFolder(tmp_path / "run") as first:
        first.note(say(1.0, "signature"))
    with pytest.raises(InputError, match="earlier run"):
        RunFolder(first.path)
    assert [note.time_s for note in read_run(first.path).notes] == [1.0]


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").close()
    assert is_run(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="this is a file"):
        RunFolder(tmp_path / "file")
    with pytest.raises(InputError, match="can't be written"):
        RunFolder(tmp_path / "file" / "below")


def test_a_folder_that_is_no_run_or_is_damaged_is_named(tmp_path, story):
    with pytest.raises(InputError, match=r"no manifest\.json"):
        read_run(tmp_path)
    with RunFolder(tmp_path / "run") as folder:
        folder.write_summary(summarize(story.notes, truth=story.truth, steps_expected=240))
    folder.summary.write_text('{"steps": 3}')
    with pytest.raises(InputError, match=r"summary\.json: \w+: the file is damaged"):
        read_run(folder.path)
    folder.summary.unlink()
    folder.metrics.write_text('{"time_s": 1, "node": "", "event": "step", "bytes_total": 0}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl:1: client: the file is damaged"):
        read_run(folder.path)


def test_the_name_of_an_adapter_can_not_lead_out_of_the_folder(tmp_path):
    with RunFolder(tmp_path / "run") as folder:
        assert folder.adapter("neighborhood-0") == folder.adapters / "neighborhood-0"
        for name in ("", ".", "..", "../x", "a/b"):
            with pytest.raises(ValueError, match="name of a folder"):
                folder.adapter(name)


def test_the_manifest_tells_versions_and_no_places():
    manifest = Manifest.here(seed=1, truth={}, steps_expected=0)
    assert set(manifest.versions) == {
        *("python", "atlas", "torch", "transformers", "peft", "pyzmq", "numpy"),
    }
    assert all("/" not in str(value) for value in manifest.platform.values())
    assert manifest.platform["cores"]

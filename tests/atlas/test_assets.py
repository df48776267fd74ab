"""The cache of packages and models: what it gives is whole, or an error says what to do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from atlas import assets
from atlas.assets import AssetError, Package
from topologies import InputError

WHEEL = "small_text-1.0-py3-none-any.whl"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of the index that pip can reach, with one wheel in it."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "small_text-1.0.dist-info"
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("small_text/rows.txt", "a\nb\n")
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: small-text\nVersion: 1.0\n"
        )
        tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    _pin(monkeypatch, (folder / WHEEL).read_bytes())
    return folder


def _pin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    digest = hashlib.sha256(content).hexdigest()
    pinned = Package("small-text", "1.0", WHEEL, digest, len(content), "the text of a test")
    monkeypatch.setattr(assets, "PACKAGES", {"small-text": pinned})


def _left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_package_is_fetched_through_pip_once(
    home: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int, int]] = []
    file = assets.package("small-text", progress=lambda *report: told.append(report))
    assert file == home / "packages" / WHEEL
    assert file.read_bytes() == (index / WHEEL).read_bytes()
    assert _left_in(file.parent) == [WHEEL]
    size = file.stat().st_size
    assert told[-1] == ("fetching small-text==1.0", size, size)
    monkeypatch.setattr(assets, "_pip_download", lambda *_: pytest.fail("fetched again"))
    assert assets.package("small-text") == file


def test_a_damaged_package_is_fetched_again(home: Path, index: Path) -> None:
    file = home / "packages" / WHEEL
    file.parent.mkdir(parents=True)
    file.write_bytes(b"\0" * (index / WHEEL).stat().st_size)
    assert assets.package("small-text").read_bytes() == (index / WHEEL).read_bytes()


def test_what_a_killed_process_left_behind_is_cleared_away(home: Path, index: Path) -> None:
    assert (index / WHEEL).is_file()
    left = home / "packages" / f".{WHEEL}.abc"
    left.mkdir(parents=True)
    (left / WHEEL).write_bytes(b"half of it")
    file = assets.package("small-text")
    assert _left_in(file.parent) == [WHEEL]


def test_without_a_network_the_error_says_which_file_to_put_where(home: Path, index: Path) -> None:
    (index / WHEEL).unlink()
    with pytest.raises(AssetError) as caught:
        assets.package("small-text")
    text = str(caught.value)
    assert isinstance(caught.value, InputError)
    assert str(home / "packages" / WHEEL) in text
    assert assets.PACKAGES["small-text"].sha256 in text
    assert "pip download --no-deps small-text==1.0" in text
    assert "`model:`" in text
    assert "`tasks:`" in text
    assert "://" not in text
    assert _left_in(home / "packages") == []


def test_another_file_under_the_same_name_and_version_is_refused(
    home: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _pin(monkeypatch, (index / WHEEL).read_bytes() + b"!")
    with pytest.raises(AssetError):
        assets.package("small-text")
    assert _left_in(home / "packages") == []


def test_a_file_put_into_the_cache_by_hand_is_taken(home: Path, index: Path) -> None:
    file = home / "packages" / WHEEL
    file.parent.mkdir(parents=True)
    (index / WHEEL).rename(file)
    assert assets.package("small-text") == file


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: Path
) -> None:
    assert index.is_dir()
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="ATLAS_HOME"):
        assets.package("small-text")


def test_the_tiny_model_has_the_same_bytes_every_time(tiny_folder: Path, home: Path) -> None:
    again = assets.model("tiny-llama")
    assert again.is_relative_to(home)
    names = [file.name for file in sorted(tiny_folder.iterdir())]
    assert "model.safetensors" in names
    assert names == [file.name for file in sorted(again.iterdir())]
    for name in names:
        assert (tiny_folder / name).read_bytes() == (again / name).read_bytes(), name


def test_two_that_ask_at_once_make_a_model_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atlas import conversion

    made = []
    make = conversion.tiny

    def counted(folder: Path) -> dict[str, str]:
        made.append(folder)
        return make(folder)

    monkeypatch.setattr(conversion, "tiny", counted)
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: assets.model("tiny-llama"), range(4)))
    assert len(made) == 1
    assert set(folders) == {folders[0]}
    assert _left_in(home / "models") == [folders[0].name]


def test_a_model_folder_with_a_file_missing_is_made_again(home: Path) -> None:
    folder = assets.model("tiny-llama")
    (folder / "model.safetensors").write_bytes(b"half of it")
    assert assets.model("tiny-llama") == folder
    assert (folder / "model.safetensors").stat().st_size > 100_000
    assert _left_in(home / "models") == [folder.name]


def test_the_byte_tokenizer_gives_one_token_for_each_byte_and_back(tiny_folder: Path) -> None:
    tokenizer = assets.tokenizer(tiny_folder)
    text = "Ünï©ode, tabs\t and\n  spaces 123"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert tokens == list(text.encode())
    assert tokenizer.decode(tokens) == text
    assert tokenizer.eos_token_id == 256


def test_a_folder_of_ones_own_is_taken_as_it_is(tiny_folder: Path) -> None:
    assert assets.model(tiny_folder) == tiny_folder
    assert assets.model(str(tiny_folder)) == tiny_folder


def test_a_model_that_is_not_known_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(AssetError, match=r"tiny-lama.*tiny-llama"):
        assets.model("tiny-lama")


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("config.json", r"config\.json"),
        ("tokenizer.json", "no tokenizer"),
        ("model.safetensors", r"weights are missing: model\.safetensors"),
    ],
)
def test_what_a_folder_of_ones_own_lacks_is_named(
    tiny_folder: Path, tmp_path: Path, missing: str, said: str
) -> None:
    for file in tiny_folder.iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(AssetError, match=said):
        assets.model(tmp_path)


def test_a_missing_shard_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny_folder / name).read_bytes())
    shards = {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (tmp_path / "model-1-of-2.safetensors").write_bytes(b"")
    with pytest.raises(AssetError, match=r"missing: model-2-of-2\.safetensors"):
        assets.model(tmp_path)


def test_a_config_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"hidden_size": 3}')
    with pytest.raises(AssetError, match="model_type"):
        assets.model(tmp_path)


def test_every_pin_is_a_wheel_with_a_full_digest() -> None:
    for name, pinned in assets.PACKAGES.items():
        assert pinned.name == name
        assert pinned.file.endswith(("-py3-none-any.whl", "-py2.py3-none-any.whl"))
        assert len(bytes.fromhex(pinned.sha256)) == 32


def test_neither_assets_nor_tasks_import_torch() -> None:
    program = (
        "import sys, atlas.assets, atlas.tasks as t; t.registry(); print('torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"

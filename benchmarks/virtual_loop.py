"""Whether other people's asyncio code runs on the virtual loop: their own tests, on both loops.

    python benchmarks/virtual_loop.py [--only pytest-asyncio|cpython] [--out FILE]
    python benchmarks/virtual_loop.py --table [--out FILE]      # what came of it, as Markdown

The suites are pytest-asyncio's, from its source distribution (fetched from the package index), and
CPython's own tests of asyncio, which come with Python: those of tasks, futures, synchronization and
streams, and not those of selectors, sockets, SSL and subprocesses, of which it has none. Each runs
twice: with the loop of asyncio, and with the virtual one in its place, by pytest-asyncio's hook or
by the policy. A test counts where it passes on asyncio's loop; what then fails on the virtual one
is counted by why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

REPOSITORY = Path(__file__).parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results" / "virtual_loop.json"
PYTEST_ASYNCIO = "1.5.0"
CPYTHON = (
    "locks", "queues", "timeouts", "taskgroups", "waitfor", "tasks", "futures", "futures2",
    "pep492", "context", "threads", "runners", "streams",
)  # fmt: skip
SECONDS = 900
HOOK = """
from broker.testing import VirtualLoop


def pytest_asyncio_loop_factories():
    return {"virtual": VirtualLoop}
"""
POLICY = """
import asyncio

from broker.testing import VirtualLoop


class Policy(asyncio.DefaultEventLoopPolicy):
    def new_event_loop(self):
        return VirtualLoop()


def pytest_configure():
    asyncio.set_event_loop_policy(Policy())
    asyncio.new_event_loop = VirtualLoop
"""
REASONS = (
    (r"test_loop_factory_parametrization\.py", "about the very hook by which the loop gets in"),
    (r"leaves the emulator|RealWorldError", "sockets, threads or processes, which it refuses"),
    (r"DeadlockError|deadlock at virtual", "waits for something that is not the loop's"),
    (r"_UnixSelectorEventLoop|BaseEventLoop|SelectorEventLoop|_selector|_ready\b|_csock",
     "asyncio's loop by name, or its insides"),
    (r"set_debug|debug|slow_callback", "asyncio's debug mode"),
    (r"already running|no running event loop|no current event loop", "which loop is current when"),
    (r"took too long|time\.|monotonic|assertLess|assertGreater", "real time"),
)  # fmt: skip


def pytest_asyncio(folder: Path) -> tuple[Path, list[str], str]:
    """Its tests, unpacked; what to run of them; how the loop gets in."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:",
         f"pytest-asyncio=={PYTEST_ASYNCIO}"],
        cwd=folder, check=True,
    )  # fmt: skip
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    (unpacked,) = [path for path in folder.iterdir() if path.is_dir()]
    return unpacked, ["tests"], HOOK


def cpython(folder: Path) -> tuple[Path, list[str], str]:
    """The tests of asyncio that come with this Python."""
    import test.test_asyncio as tests

    here = Path(tests.__file__).parent
    files = [str(here / f"test_{name}.py") for name in CPYTHON]
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder, [file for file in files if Path(file).is_file()], POLICY


SUITES = {"pytest-asyncio": pytest_asyncio, "cpython": cpython}


def outcomes(folder: Path, what: Sequence[str], plugin: str) -> dict[str, str]:
    """How each test ended: an empty text where it passed, "skipped", or how it failed."""
    report = folder / "report.xml"
    (folder / "which_loop.py").write_text(plugin)
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    subprocess.run(
        [sys.executable, "-m", "pytest", *what, "-q", "-p", "no:cacheprovider",
         f"--junitxml={report}", "-o", "junit_family=xunit1", "--timeout=60", "-p", "no:xdist"],
        cwd=folder, timeout=SECONDS, check=False, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path, "PYTEST_PLUGINS": "which_loop" if plugin else ""},
    )  # fmt: skip
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        said = ""
        for child in case:
            if child.tag in ("failure", "error"):
                said = (child.get("message") or "") + "\n" + (child.text or "")
            elif child.tag == "skipped":
                said = "skipped"
        found[name] = said
    return found


def why(said: str) -> str:
    """The first reason that fits what a test said."""
    last = said[-4000:]
    return next((reason for pattern, reason in REASONS if re.search(pattern, last)), "other")


def measure(name: str) -> dict[str, Any]:
    """One suite on both loops."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, what, plugin = SUITES[name](Path(temporary))
        real = outcomes(folder, what, "")
        virtual = outcomes(folder, what, plugin)
    counted = [test for test, said in real.items() if not said]
    failed = {test: virtual.get(test, "not run") for test in counted if virtual.get(test, "x")}
    reasons = Counter(why(said) for said in failed.values())
    return {
        "suite": name,
        "version": PYTEST_ASYNCIO if name == "pytest-asyncio" else platform.python_version(),
        "tests": len(counted),
        "passed": len(counted) - len(failed),
        "reasons": dict(reasons.most_common()),
        "failed": {test: why(said) for test, said in sorted(failed.items())},
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """What came of it, as Markdown."""
    lines = ["| suite | pass on asyncio's loop | of these on the virtual one | why not |",
             "|---|---|---|---|"]  # fmt: skip
    for row in rows:
        reasons = "; ".join(f"{count}: {reason}" for reason, count in row["reasons"].items())
        lines.append(
            f"| {row['suite']} {row['version']} | {row['tests']} | {row['passed']} | {reasons} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=sorted(SUITES))
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.out.is_file() else {"suites": []}
    if not options.table:
        rows = {row["suite"]: row for row in known["suites"]}
        for name in [options.only] if options.only else SUITES:
            rows[name] = measure(name)
            print(table([rows[name]]))
        known = {"suites": [rows[name] for name in SUITES if name in rows]}
        options.out.write_text(json.dumps(known, indent=1) + "\n")
    print(table(known["suites"]))


if __name__ == "__main__":
    main()

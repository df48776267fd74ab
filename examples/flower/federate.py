"""Flower through the proxy: a SuperLink, three SuperNodes, and the network between them.

    python examples/flower/federate.py [--flower FOLDER] [--rounds 4] [--calm] [--out FILE]

All of Flower is as it is installed: its SuperLink and SuperNodes are processes of their own, and
its ServerApp and ClientApps those that they start. Each SuperNode is told the address of a route of
the proxy instead of the SuperLink's, and so stands at a node of `network.yaml`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import faults
import topologies
from broker import proxy
from broker.proxy import Address, ProxySettings, Route

HERE = Path(__file__).parent
SITES = ("hospital", "clinic", "village")
PATIENCE_S = 600


def federate(flower: Path, rounds: int, *, calm: bool = False) -> dict[str, object]:
    """One federation; what each round gave, what each site sent and was sent, and the faults.

    Raises RuntimeError where Flower's run does not finish.
    """
    struck: list[dict[str, object]] = []
    superlink = Address("127.0.0.1", _free_port())
    settings = ProxySettings(
        routes=tuple(
            Route(site, Address("127.0.0.1", 0), superlink, source=site, target="cloud")
            for site in SITES
        ),
        topology=topologies.load(HERE / "network.yaml"),
        faults=None if calm else faults.load(HERE / "faults.yaml"),
    )
    with (
        tempfile.TemporaryDirectory() as name,
        proxy.running(
            settings, lambda at_s, event: struck.append({"at_s": at_s, "text": event.text})
        ) as running,
        contextlib.ExitStack() as started,
    ):
        folder = Path(name)
        environment = _environment(flower, folder, superlink)

        def start(program: str, *arguments: str) -> None:
            log = folder / f"{program}-{len(list(folder.glob('*.log')))}.log"
            command = [str(flower / program), *arguments]
            started.enter_context(_process(command, environment, log))

        start(
            "flower-superlink", "--insecure", "--host", superlink.host,
            "--port", str(superlink.port), "--disable-runtime-dependency-installation",
        )  # fmt: skip
        _wait_for(superlink)
        for number, site in enumerate(SITES):
            start(
                "flower-supernode", "--insecure", "--superlink", str(running.addresses[site]),
                "--port", str(_free_port()), "--node-config", f"site={number}",
            )  # fmt: skip
        result = folder / "result.json"
        try:
            _submit(flower, environment, result, rounds)
            _wait_until_written(result)
        except RuntimeError as error:
            logs = "\n".join(
                log.read_text(errors="replace")[-2_000:] for log in folder.glob("*.log")
            )
            raise RuntimeError(f"{error}\n{logs}") from None
        gates = running.proxy.gates
        ways = {site: running.call(gates[site].tallies) for site in SITES}
        return {
            "rounds": json.loads(result.read_text(encoding="utf-8")),
            "faults": struck,
            "sites": {
                site: {
                    "connections": whole.opened,
                    "reset": whole.reset,
                    "up_bytes": up.handed,
                    "down_bytes": down.handed,
                }
                for site, (whole, up, down) in ways.items()
            },
        }


def report(said: dict[str, object]) -> str:
    """What the network did, as Markdown."""
    lines = ["| round | at | accuracy |", "|---|---|---|"]
    lines += [
        f"| {one['round']} | {one['at_s']:.1f} s | {one['accuracy']:.1%} |"
        for one in said["rounds"]  # type: ignore[attr-defined]
    ]
    lines += ["", "| site | sent | received | connections | reset |", "|---|---|---|---|---|"]
    for site, one in said["sites"].items():  # type: ignore[attr-defined]
        lines.append(
            f"| {site} | {one['up_bytes'] / 1e3:,.0f} kB | {one['down_bytes'] / 1e3:,.0f} kB | "
            f"{one['connections']} | {one['reset']} |"
        )
    for one in said["faults"]:  # type: ignore[attr-defined]
        lines += ["", f"{one['at_s']:.1f} s: {one['text']}"]
    return "\n".join(lines)


def _environment(flower: Path, folder: Path, superlink: Address) -> dict[str, str]:
    """Flower's own settings in a folder of this run; it reports to nobody."""
    (folder / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{superlink}"\n'
        "insecure = true\n",
        encoding="utf-8",
    )
    return os.environ | {
        "PATH": f"{flower}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(folder),
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """A program with all that it starts, until the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)


def _submit(flower: Path, environment: dict[str, str], result: Path, rounds: int) -> None:
    settings = f'rounds={rounds} result="{result}"'
    said = subprocess.run(
        [flower / "flwr", "run", str(HERE / "app"), "here", "--run-config", settings],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    if said.returncode:
        raise RuntimeError(f"flwr run: {said.stdout}{said.stderr}")


def _wait_until_written(result: Path) -> None:
    until = time.monotonic() + PATIENCE_S
    while not result.exists() or not result.read_text(encoding="utf-8"):
        if time.monotonic() > until:
            raise RuntimeError("Flower's run has not ended")
        time.sleep(0.2)


def _wait_for(address: Address) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError), socket.create_connection(address):
            return
        if time.monotonic() > until:
            raise RuntimeError(f"nothing listens at {address}")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


def flower_programs(given: Path | None = None) -> Path | None:
    """The folder of Flower's programs: the given one, this Python's, or one on the path."""
    on_path = shutil.which("flower-superlink")
    folders = [given, Path(sys.executable).parent, Path(on_path).parent if on_path else None]
    return next((one for one in folders if one and (one / "flower-superlink").exists()), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--flower", type=Path, help="the folder of Flower's programs")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--calm", action="store_true", help="without the faults")
    parser.add_argument("--out", type=Path, help="write what was seen there (JSON)")
    given = parser.parse_args()
    flower = flower_programs(given.flower)
    if flower is None:
        sys.exit(
            "error: Flower is not installed. pip install flwr scikit-learn, or --flower FOLDER"
        )
    said = federate(flower, given.rounds, calm=given.calm)
    print(report(said))
    if given.out is not None:
        given.out.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

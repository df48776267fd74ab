"""The law of faults, tried: whatever breaks, the adapters are those of the run where nothing did.

    python benchmarks/campaign.py [--config tiny] [--scenarios 200] [--computed 10] [--seed 0]

Draws scenarios by seed: faults of every kind by `faults.random`, and deaths where they hurt: the
host of a client, all hosts of its neighborhood, the client itself, who aggregates, who has most to
do, who coordinates; some hosts and coordinators never come back. They keep to the law's premise:
clients come back, and every client sooner or later reaches some host. Each scenario is lived
through, some with the nodes in two processes, and its adapters are compared with those of the calm
run, byte by byte. One that fails is made as small as it can be and still fail, and written beside
the results.

What is computed is kept by content, so a scenario has nothing to compute that the calm run had not
computed already; `--computed` says how many scenarios compute everything all the same.
`benchmarks/results/campaign.json` gets the counts, one entry for each config.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import faults
from atlas import assets, config, experiment
from atlas.experiment import Prepared, Trained
from atlas.journal import Journal
from atlas.models.tensors import pack
from atlas.results import summarize
from atlas.results.manifest import machine
from broker import Note
from faults import Scenario
from faults.patterns import Dice
from topologies import Topology

RESULTS = Path(__file__).with_name("results")
DEATHS = ("crash", "stop", "leave")
IN_PROCESSES = 20
"""One of so many scenarios is lived through in two processes."""

CONFIGS: dict[str, tuple[str, ...]] = {
    "tiny": (
        *("training.rounds=2", "training.steps=2", "held_out=8"),
        *("tasks=[stdlib-package,stdlib-docstring]",),  # two neighborhoods of six hosts each
    ),
    "quickstart": (
        *("training.rounds=2", "training.steps=3", "training.batch=4", "training.tokens=32"),
        *("dtype=float32", "held_out=8"),
    ),
}
"""What is changed in a config to make it short."""


class Nobody:
    """A view for nobody."""

    def expect(self, **_: object) -> None: ...
    def say(self, text: str) -> None: ...
    def note(self, note: object) -> None: ...


@dataclasses.dataclass(frozen=True)
class Life:
    """What came of a run."""

    adapters: str
    """Digest of all adapters."""
    notes: list[Note]
    virtual_s: float
    struck: Counter[str]
    """Deaths by role."""

    @property
    def aggregators(self) -> list[str]:
        """Who has aggregated."""
        found = [note.fields["aggregator"] for note in self.notes if note.event == "aggregated"]
        return list(dict.fromkeys(found))

    @property
    def hosts(self) -> dict[str, list[str]]:
        """The chain and the stand-ins that each client was paired with."""
        return {
            note.fields["client"]: list(
                dict.fromkeys(
                    [part["host"] for part in note.fields["chain"]]
                    + [host for ranked in note.fields["stand_ins"] for host in ranked]
                )
            )
            for note in self.notes
            if note.event == "paired"
        }


@dataclasses.dataclass(frozen=True)
class Trial:
    """A scenario, what came of it, and what is wrong with that, if anything is."""

    scenario: Scenario
    life: Life | None
    problem: str


@dataclasses.dataclass
class Campaign:
    """A calm run, and the means to compare others with it."""

    prepared: Prepared
    folder: Path
    calm: Life = dataclasses.field(init=False)
    journal: Journal = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        world = experiment.world(self.prepared)
        first = Journal(self.folder, world)
        self.calm = live(self.prepared.with_journal(first), None)
        first.close()
        self.journal = Journal(self.folder, world)

    def live(self, scenario: Scenario, *, computed: bool = False, processes: int = 1) -> Life:
        """A run under this scenario; `computed` leaves nothing to the journal."""
        prepared = self.prepared if computed else self.prepared.with_journal(self.journal)
        return live(prepared, scenario, processes=processes)

    def trial(self, seed: int, *, computed: bool = False, processes: int = 1) -> Trial:
        """Lives through the scenario of this seed; where that would strike whom a run so late as
        this one can't name yet, through the next one of this seed.
        """
        topology = self.prepared.topology
        for again in range(100):
            scenario = draw(topology, self.calm, seed + again * 10**6)
            try:
                life = self.live(scenario, computed=computed, processes=processes)
            except faults.ScenarioError:
                continue
            except Exception as error:
                return Trial(scenario, None, f"{type(error).__name__}: {error}")
            broken = self.breaks_the_law(life)
            return Trial(scenario, life, "it ends otherwise than the calm run" if broken else "")
        raise AssertionError(f"nothing drawn by seed {seed} could be lived through")

    def steps(self, life: Life) -> dict[str, int]:
        """Steps lost, applied twice and repeated, repairs, and what became of them."""
        found = summarize(life.notes, truth=self.prepared.truth, steps_expected=self.prepared.steps)
        return {
            "steps_lost": found.steps_lost,
            "steps_twice": found.steps_twice,
            "steps_repeated": found.steps_repeated,
            "repairs": found.repairings,
            "fallbacks": found.fallbacks,
            "returns": sum(note.event == "returned" for note in life.notes),
        }

    def breaks_the_law(self, life: Life) -> bool:
        """Whether a run ended otherwise than the calm one."""
        steps = self.steps(life)
        return bool(
            life.adapters != self.calm.adapters or steps["steps_lost"] or steps["steps_twice"]
        )


def live(prepared: Prepared, scenario: Scenario | None, *, processes: int = 1) -> Life:
    """One run. Raises what it raises."""
    notes: list[Note] = []
    prepared = dataclasses.replace(prepared, scenario=scenario)
    trained = experiment.train(prepared, processes=processes, observe=notes.append)
    roles = {node.name: node.role for node in prepared.topology.nodes.values()}
    aggregators = {note.fields["aggregator"] for note in notes if note.event == "aggregated"}
    struck: Counter[str] = Counter()
    for event in trained.run.faults:
        happened = event.at_ns <= trained.run.virtual_seconds * 1e9
        if happened and event.kind in DEATHS and event.phase == "begin":
            struck.update(roles[node] for node in event.nodes)
            struck["aggregator"] += len(aggregators.intersection(event.nodes))
    return Life(_digest(trained), notes, trained.run.virtual_seconds, struck)


def draw(topology: Topology, calm: Life, seed: int) -> Scenario:
    """A scenario that keeps to the law's premise, the same for the same arguments.

    `calm` is the run without faults; most faults begin within the time that it takes.
    """
    dice = Dice(seed, topology.name, "campaign")
    timeline: list[Any] = []
    for number in range(dice.between(1, 5)):
        drawn = faults.random(
            topology,
            seed * 100 + number,
            intensity=dice.between(20, 100) / 100,
            duration_s=1.5 * calm.virtual_s,
        )
        timeline += drawn.timeline
    deaths = [_death(topology, calm, dice) for _ in range(dice.between(1, 4))]
    timeline += Scenario.of({"name": "deaths", "timeline": deaths}).timeline
    return dataclasses.replace(drawn, name=f"campaign-{seed}", timeline=tuple(timeline))


def _death(topology: Topology, calm: Life, dice: Dice) -> dict[str, Any]:
    """Somebody dies where it hurts."""
    clients = [node.name for node in topology.nodes.values() if node.role == "client"]
    hosts = [node.name for node in topology.nodes.values() if node.role == "host"]
    client, milliseconds = dice.one(clients), round(1000 * calm.virtual_s)
    whom: list[tuple[Any, int]] = [
        *((client, 1), (calm.hosts[client], 1), (dice.one(calm.aggregators), 1)),
        *(("busiest host", 1), ("any 30 % of role=host", 1), (dice.one(hosts), 1)),
        # These only a run can name, once it has paired.
        *((f"host of {client}", milliseconds // 2), (f"hosts of {client}", milliseconds // 2)),
        *[("coordinator", 1)] * 2,
    ]
    chosen, since = dice.one(whom)
    said: dict[str, Any] = {
        "at": f"{dice.between(since, milliseconds)} ms",
        "crash": chosen,
        "for": f"{dice.between(1, milliseconds)} ms",
    }
    if chosen in hosts or (chosen == "coordinator" and dice.between(0, 1)):
        del said["for"]  # this one never comes back
    return said


def small(topology: Topology, clients: int, hosts: int) -> Topology:
    """The same network with fewer devices, taken evenly."""
    kept = set()
    for role, number in (("client", clients), ("host", hosts)):
        names = [node.name for node in topology.nodes.values() if node.role == role]
        kept |= {names[index * len(names) // number] for index in range(number)}
    nodes = [
        node
        for node in topology.nodes.values()
        if node.role not in ("client", "host") or node.name in kept
    ]
    names = {node.name for node in nodes}
    links = [link for link in topology.links.values() if {link.source, link.target} <= names]
    return Topology.of(f"{topology.name}-small", nodes, links)


def _digest(trained: Trained) -> str:
    """Digest of all adapters by name."""
    total = hashlib.sha256()
    for name, adapter in trained.adapters.items():
        manifest, buffers = pack(adapter)
        total.update(json.dumps([name, manifest]).encode())
        for buffer in buffers:
            total.update(buffer)
    return total.hexdigest()


@contextlib.contextmanager
def campaign(prepared: Prepared) -> Iterator[Campaign]:
    """A campaign whose journal is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        opened = Campaign(prepared, Path(folder))
        try:
            yield opened
        finally:
            opened.journal.close()


def main() -> None:
    """Draws, lives, compares, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", choices=sorted(CONFIGS))
    parser.add_argument("--scenarios", type=int, default=200)
    parser.add_argument("--computed", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    assets.forbid_hub()
    chosen = config.load(arguments.config, ["faults=none", *CONFIGS[arguments.config]])
    prepared = experiment.prepare(chosen, Nobody())
    started = time.monotonic()
    counts: Counter[str] = Counter()
    struck: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    failures: list[dict[str, Any]] = []
    with campaign(prepared) as opened:
        for number in range(arguments.scenarios):
            seed = arguments.seed + number
            computed = number % max(1, arguments.scenarios // max(1, arguments.computed)) == 0
            computed = computed and counts["computed"] < arguments.computed
            processes = 2 if number % IN_PROCESSES == IN_PROCESSES - 1 else 1
            trial = opened.trial(seed, computed=computed, processes=processes)
            counts["scenarios"] += 1
            counts["computed"] += computed
            counts["in_two_processes"] += processes == 2
            kinds.update(fault.kind for fault in trial.scenario.timeline)
            if trial.life is not None:
                counts.update(opened.steps(trial.life))
                struck.update(trial.life.struck)
                counts["adapters_equal"] += trial.life.adapters == opened.calm.adapters
            said = trial.problem.splitlines()[0] if trial.problem else "the same"
            print(f"{seed}: {len(trial.scenario.timeline)} faults, {said}", flush=True)
            if trial.problem:
                smallest = _smallest(opened, trial.scenario)
                failures.append({"seed": seed, "problem": trial.problem, "scenario": smallest})
                file = RESULTS / f"campaign-{arguments.config}-{seed}.yaml"
                file.write_text(smallest, encoding="utf-8")
        results = {
            "command": f"python benchmarks/campaign.py {' '.join(sys.argv[1:])}".strip(),
            "changes": CONFIGS[arguments.config],
            "machine": machine(),
            **{name: counts[name] for name in ("scenarios", "adapters_equal", *sorted(counts))},
            "deaths": dict(sorted(struck.items())),
            "faults": dict(sorted(kinds.items())),
            "results_recalled": opened.journal.recalled,
            "results_computed_beside_the_calm_run": opened.journal.computed,
            "failures": failures,
            "minutes": round((time.monotonic() - started) / 60, 1),
        }
    file = RESULTS / "campaign.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    known[arguments.config] = results
    file.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=2))
    sys.exit(1 if failures else 0)


def _smallest(opened: Campaign, scenario: Scenario) -> str:
    """The scenario as small as it can be and still break the law."""

    def fails(candidate: Scenario) -> bool:
        try:
            return opened.breaks_the_law(opened.live(candidate))
        except faults.ScenarioError:
            return False
        except Exception:
            return True

    try:
        return faults.write(faults.minimize(scenario, fails, most_runs=60))
    except ValueError:  # it only fails when everything is computed, or in two processes
        return faults.write(scenario)


if __name__ == "__main__":
    main()

"""The figures of a run: `summary.json`.

`summarize` is a function of the run's notes and of the few facts that notes do not carry (the
tasks that the clients were really dealt, what the ledger counted, the digest). Nothing is read
from anywhere else, so the figures of a run can be derived again from its folder.

Units: losses in nats per answer token, mean over rows; accuracy and majority as fractions;
seconds; bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from atlas.results.events import Evaluated
from atlas.results.notes import Note
from atlas.results.tally import Tally

PURPOSES = ("signatures", "activations", "gradients", "adapters", "recovery", "control")


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class TaskFigures(_Figures):
    """What became of one task. Figures that were not measured are None."""

    clients: int
    """Clients that were dealt this task."""
    examples: int
    """Held-out rows that each of these figures was measured on."""
    loss_before: float | None = None
    loss_after: float | None = None
    choice_loss_before: float | None = None
    """Loss over the answers that a question allows: without what is learned of the format."""
    choice_loss_after: float | None = None
    accuracy_before: float | None = None
    accuracy_after: float | None = None
    majority: float | None = None
    """Accuracy of always giving the most frequent answer."""
    metric: str | None = None
    """What the task is judged by."""
    measure_before: float | None = None
    measure_after: float | None = None


class NeighborhoodFigures(_Figures):
    """How the clients were divided."""

    count: int = 0
    members: dict[str, tuple[str, ...]] = {}
    adjusted_rand_index: float | None = None
    """Agreement with the tasks dealt: 1 is perfect, 0 is chance (Hubert and Arabie, 1985)."""
    silhouette: float | None = None
    """How far apart the neighborhoods lie: 1 is far, 0 is not at all (Rousseeuw, 1987)."""
    p_value: float | None = None
    """Chance to see signatures so divided if there were nothing to divide."""


class Summary(_Figures):
    """A run in figures."""

    finished: bool
    tasks: dict[str, TaskFigures]
    neighborhoods: NeighborhoodFigures
    sat_out: dict[str, int] = {}
    """Clients that took no part, with the bytes that they would have had to grant."""
    repairings: int
    fallbacks: int
    deaths: int
    steps: int
    """Steps (client, round, step) that are done and stand."""
    steps_expected: int
    steps_lost: int
    """Expected of those who take part, less done; in a run that was interrupted, what it did not
    come to is in it.
    """
    steps_twice: int
    """Steps that were applied twice; anything but 0 is a bug."""
    steps_repeated: int
    """Computations done again: replayed by stand-ins, or re-run by clients that came back."""
    bytes: dict[str, int]
    """By purpose; the sum is what all nodes sent."""
    virtual_seconds: float
    wall_seconds: float | None
    digest: str | None
    """Digest of the trace; equal for equal runs."""
    whole_step_bytes: int | None
    """Memory that one training step of the whole model would need."""
    largest_grant_bytes: int | None
    """The most memory that any device grants."""


def summarize(
    notes: Iterable[Note],
    *,
    truth: Mapping[str, str],
    steps_expected: int,
    bytes_by_purpose: Mapping[str, int] | None = None,
    virtual_seconds: float | None = None,
    wall_seconds: float | None = None,
    digest: str | None = None,
    whole_step_bytes: int | None = None,
    finished: bool | None = None,
) -> Summary:
    """Derive a run's figures.

    Args:
        notes: all notes of the run, in order.
        truth: the task that each client was really dealt; no program of the run knows it.
        steps_expected: clients x rounds x steps.
        bytes_by_purpose: what the ledger counted. Purposes of ATLAS that did not occur are given
            as 0.
        virtual_seconds: when the run ended; the time of the last note where it is not given.
        wall_seconds: how long a person waited.
        digest: the digest of the trace.
        whole_step_bytes: memory that one training step of the whole model would need.
        finished: whether the run came to its end; where not given, whether a `finished` note says
            so.
    """
    tally = Tally(notes)
    if truth:
        steps_expected -= len(tally.sat_out) * steps_expected // len(truth)
    grants = [device.grant_bytes for device in tally.devices.values() if device.grant_bytes > 0]
    counted = dict(bytes_by_purpose or {})
    return Summary(
        finished=tally.finished is not None if finished is None else finished,
        tasks=_tasks(tally, truth),
        neighborhoods=_neighborhoods(tally, truth),
        sat_out={name: event.needed_bytes for name, event in tally.sat_out.items()},
        repairings=tally.repairings,
        fallbacks=tally.fallbacks,
        deaths=tally.deaths,
        steps=tally.steps,
        steps_expected=steps_expected,
        steps_lost=steps_expected - tally.steps,
        steps_twice=tally.steps_twice,
        steps_repeated=tally.replayed + tally.steps_rerun,
        bytes=({name: counted.get(name, 0) for name in PURPOSES} | counted) if counted else {},
        virtual_seconds=tally.time_s if virtual_seconds is None else virtual_seconds,
        wall_seconds=wall_seconds,
        digest=digest,
        whole_step_bytes=whole_step_bytes,
        largest_grant_bytes=max(grants, default=None),
    )


def adjusted_rand_index(
    members: Mapping[str, Sequence[str]], truth: Mapping[str, str]
) -> float | None:
    """Agreement of neighborhoods with true tasks; None for fewer than two clients with both."""
    pairs = [
        (truth[client], name)
        for name, clients in members.items()
        for client in clients
        if client in truth
    ]
    if len(pairs) < 2:
        return None
    from sklearn.metrics import adjusted_rand_score  # noqa: PLC0415 - costs a second to import

    tasks, names = zip(*pairs, strict=True)
    return float(adjusted_rand_score(tasks, names))


def _neighborhoods(tally: Tally, truth: Mapping[str, str]) -> NeighborhoodFigures:
    found = tally.neighborhoods
    if found is None:
        return NeighborhoodFigures()
    return NeighborhoodFigures(
        count=len(found.members),
        members=dict(found.members),
        adjusted_rand_index=adjusted_rand_index(found.members, truth),
        silhouette=found.silhouette,
        p_value=found.p_value,
    )


def _tasks(tally: Tally, truth: Mapping[str, str]) -> dict[str, TaskFigures]:
    names = list(dict.fromkeys([*truth.values(), *(task for task, _, _ in tally.evaluations)]))
    return {name: _task(tally, truth, name) for name in sorted(names)}


def _task(tally: Tally, truth: Mapping[str, str], name: str) -> TaskFigures:
    clients = [client for client, task in truth.items() if task == name]
    figures: dict[str, float | None] = {}
    metric, rows = None, 0
    for phase in ("before", "after"):
        scores = _weighed(tally, name, phase, clients)
        rows = max([rows, *(score.rows for _, score in scores)])
        metric = next((score.metric for _, score in scores if score.metric), metric)
        for figure in ("loss", "choice_loss", "accuracy", "measure"):
            figures[f"{figure}_{phase}"] = _mean(
                [(weight, getattr(score, figure)) for weight, score in scores]
            )
        majority = _mean([(weight, score.majority) for weight, score in scores])
        figures["majority"] = figures.get("majority") if majority is None else majority
    return TaskFigures(clients=len(clients), examples=rows, metric=metric, **figures)


def _weighed(
    tally: Tally, task: str, phase: str, clients: Sequence[str]
) -> list[tuple[int, Evaluated]]:
    """The task's scores, each with the number of the task's clients that have the adapter scored.

    Clients of one task may have come into different neighborhoods; then each counts with what it
    got.
    """
    members = tally.neighborhoods.members if tally.neighborhoods else {}
    return [
        (max(1, len(set(clients) & set(members.get(neighborhood or "", ())))), score)
        for (name, when, neighborhood), score in tally.evaluations.items()
        if (name, when) == (task, phase)
    ]


def _mean(weighed: Iterable[tuple[int, float | None]]) -> float | None:
    known = [(weight, value) for weight, value in weighed if value is not None]
    if len(known) < 2:
        return known[0][1] if known else None
    return sum(weight * value for weight, value in known) / sum(weight for weight, _ in known)

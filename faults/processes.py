"""Faults by the laws of chance, as a scenario file writes them: a model for each process.

`faults.chance` draws what they mean. The descriptions here are those of the reference and of the
JSON schema.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from faults.entries import SECOND, Away, OnLinks
from faults.values import Instant, Name, Selector, Share, Span
from topologies.document import Settings
from topologies.errors import InputError, did_you_mean

PROCESSES = ("churn", "crashes", "flapping", "diurnal")
HOUR = 3600 * SECOND


class Churn(Settings):
    """Nodes crash and come back, each by itself, up and down for exponential times."""

    nodes: Selector = Field(description="whom it strikes")
    mean_up: Span = Field(description="how long a node is up on average; the first time, too")
    mean_down: Span = Field(description="how long it is down on average")
    until: Span = Field(default=HOUR, description="nobody crashes after that")


class Crashes(Settings):
    """Now and then one of these nodes, each as likely, crashes (a Poisson process)."""

    nodes: Selector = Field(description="of whom one crashes")
    mean_between: Span = Field(description="the time between two crashes on average")
    mean_down: Span | None = Field(
        default=None, description="how long one is down on average; else it never comes back"
    )
    until: Span = Field(default=HOUR, description="nobody crashes after that")


class Flapping(OnLinks):
    """Links go down and come up, each by itself, up and down for exponential times."""

    mean_up: Span = Field(description="how long a link is whole on average; the first time, too")
    mean_down: Span = Field(description="how long it is cut on average")
    until: Span = Field(default=HOUR, description="no link goes down after that")


class Diurnal(Settings):
    """Nodes are there by the time of day: between *least* and *most* of them, as a wave."""

    nodes: Selector = Field(description="whom it strikes")
    most: Share = Field(description="how many are there at the peak")
    least: Share = Field(description="how many are there half a day from it")
    peak: Instant = Field(default=0, description="when most are there")
    day: Span = Field(default=24 * HOUR, description="how long a day is")
    mean_stay: Span = Field(
        default=HOUR, description="after how long, on average, a node comes or goes as it then is"
    )
    until: Span = Field(
        default=24 * HOUR, description="when it is over: whoever is away then comes back at once"
    )
    away: Away = Field(default="leave", alias="as", description="what being away means")

    @model_validator(mode="after")
    def _falls_and_rises(self) -> Diurnal:
        if self.least > self.most:
            raise InputError("at least more are there than at most", remedy="Exchange the two")
        return self


class Process(Settings):
    """An entry of ``processes``: faults by the laws of chance."""

    id: Name | None = Field(
        default=None, description="its name in tables and traces; else as in churn-1"
    )
    churn: Churn | None = None
    crashes: Crashes | None = None
    flapping: Flapping | None = None
    diurnal: Diurnal | None = None

    @property
    def kind(self) -> str:
        """Which of the processes it is."""
        return next(kind for kind in PROCESSES if getattr(self, kind) is not None)

    @model_validator(mode="after")
    def _is_one_kind(self) -> Process:
        given = [kind for kind in PROCESSES if getattr(self, kind) is not None]
        if len(given) != 1:
            problem = (
                f"an entry is one process, not {' and '.join(given)}" if given else "no process"
            )
            raise InputError(problem, remedy=f"Write one of {', '.join(PROCESSES)}")
        return self

    @classmethod
    def remedy_for(cls, key: str) -> str:
        """The kinds of process there are."""
        return did_you_mean(key, PROCESSES, what="processes")

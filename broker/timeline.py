"""A trace as people read it: one line for each message, faults between, and a line that sums up.

    0.000000 s  a → b         asks            1.2 KiB      12.3 ms  delivered
    2.000000 s  ▸ crash b

A message stands where it was sent. "Took" is until it arrived or was lost; a dash means that it was
in flight when the run ended. What can be coloured is; a `Console` that is no terminal gets the same
words plain.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from broker.ledger import DELIVERED, IN_FLIGHT
from broker.trace import Trace
from topologies import units

_AT_ONCE = 512


def show(trace: Trace, console: Console, limit: int = 0, whole: Trace | None = None) -> None:
    """Prints a trace, `limit` rows at most (0: all). `whole` is what it was chosen from."""
    rows = lines(trace, limit)
    while batch := [line for line, _ in zip(rows, range(_AT_ONCE), strict=False)]:
        _print(console, Text("\n").join(batch))
    left = len(trace.table) - limit if limit else 0
    if left > 0:
        _print(console, Text(f"… and {left:,} more: `--limit 0` shows all"))
    _print(console, Text(summary(trace, whole), style="bold"))


def lines(trace: Trace, limit: int = 0) -> Iterator[Text]:
    """One line for each row, `limit` at most (0: all)."""
    table = trace.table.slice(0, limit) if limit else trace.table
    chosen = Trace(table, trace.about)
    ends = [_ends(row) for row in chosen.messages.select(["source", "destination"]).to_pylist()]
    purposes = chosen.bytes_by_purpose()
    widths = {
        "time": len(_seconds(chosen.table["at_ns"][-1].as_py())) if len(table) else 0,
        "ends": max(map(len, ends), default=0),
        "purpose": max(map(len, purposes), default=0),
    }
    for batch in table.to_batches(_AT_ONCE):
        for row in batch.to_pylist():
            time = _seconds(row["at_ns"]).rjust(widths["time"])
            if row["what"] == "fault":
                yield Text.assemble(f"{time}  ", (f"▸ {row['text']}", "yellow"))
                continue
            fate = row["fate"] + (", a copy" if row["copy"] else "")
            yield Text.assemble(
                f"{time}  {_ends(row).ljust(widths['ends'])}",
                f"  {row['purpose'].ljust(widths['purpose'])}",
                f"  {_size(row['size_bytes']):>8}  {_took(row):>8}  ",
                (fate, _style(row["fate"])),
            )


def summary(trace: Trace, whole: Trace | None = None) -> str:
    """How many messages met each fate, and the bytes on the wire by purpose."""
    messages, faults = len(trace.messages), len(trace.faults)
    of = f" of {len(whole.messages):,}" if whole is not None and whole is not trace else ""
    counts = [f"{count:,} {fate}" for fate, count in trace.fates().items()]
    unknown = trace.about["copies_in_flight"]
    if unknown and not of:
        counts.append(f"{unknown:,} more copies in flight")
    sizes = [f"{purpose or '(none)'} {_size(size)}" for purpose, size in
             trace.bytes_by_purpose().items()]  # fmt: skip
    said = f"{_count(messages, 'message')}{of}"
    if counts:
        said += f": {', '.join(counts)}"
    said += f"; {_count(faults, 'fault')}" if faults else ""
    return said + (f"\non the wire: {', '.join(sizes)}" if sizes else "")


def _print(console: Console, text: Text) -> None:
    console.print(text, soft_wrap=True, highlight=False)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _ends(row: dict[str, str]) -> str:
    return f"{row['source']} → {row['destination']}"


def _seconds(at_ns: int) -> str:
    """In whole microseconds, as most networks are faster than milliseconds and none than these."""
    return f"{at_ns // 1_000_000_000}.{at_ns // 1_000 % 1_000_000:06d} s"


@functools.lru_cache(maxsize=4096)
def _size(size_bytes: int) -> str:
    return units.show_size(size_bytes, 3)


def _took(row: dict[str, int | None]) -> str:
    ended_ns, sent_ns = row["ended_ns"], row["at_ns"]
    if ended_ns is None or sent_ns is None:
        return "–"  # noqa: RUF001 - a dash in a column of figures
    return units.show_duration((ended_ns - sent_ns) / 1e9, 3)


def _style(fate: str) -> str:
    return {DELIVERED: "green", IN_FLIGHT: "cyan"}.get(fate, "red")

"""Figures as a person reads them: rounded, with their unit; never what must be exact."""

from __future__ import annotations

import math

from topologies.units import show_flops, show_size

MISSING = "—"


def show_bytes(count: float | None) -> str:
    """Bytes in decimal units, as networks count them: 1234567 is "1.2 MB"."""
    if count is None:
        return MISSING
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(value) < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 99.5 else f"{value:.1f} {unit}"


def show_memory(count: float | None) -> str:
    """Bytes in binary units, as memory is counted: 536870912 is "512 MiB"."""
    return MISSING if count is None else show_size(round(count), digits=3)


def show_speed(flops: float) -> str:
    """A device's speed: "12 GFLOP/s"."""
    return show_flops(flops, digits=3) if flops > 0 else MISSING


def show_seconds(seconds: float | None) -> str:
    """A length of time: "0.4 s", "38 s", "2 min 05 s", "3 h 12 min"."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def show_moment(seconds: float) -> str:
    """A moment of a run, to the tenth of a second: "12.3 s", "2:05.0", "1:02:05.0"."""
    tenths = round(seconds * 10)
    if tenths < 600:
        return f"{tenths / 10:.1f} s"
    minutes, rest = divmod(tenths, 600)
    clock = (
        f"{minutes % 60:02d}:{rest / 10:04.1f}" if minutes >= 60 else f"{minutes}:{rest / 10:04.1f}"
    )
    return f"{minutes // 60}:{clock}" if minutes >= 60 else clock


def show_loss(loss: float | None) -> str:
    """A loss to three figures: "1.87", "0.041"."""
    if loss is None:
        return MISSING
    if not math.isfinite(loss):
        return "not a number" if math.isnan(loss) else "infinite"
    return f"{loss:.2f}" if abs(loss) >= 0.1 else f"{loss:.3f}"


def show_share(fraction: float | None) -> str:
    """A fraction as whole percent: "74 %"."""
    return MISSING if fraction is None else f"{fraction * 100:.0f} %"


def show_layers(first: int, last: int) -> str:
    """The layers of a half-open range, as a person counts them: "layers 4-9", "layer 4"."""
    return f"{'layer' if last - first == 1 else 'layers'} {span_name(first, last)}"


def span_name(first: int, last: int) -> str:
    """The numbers of a half-open range of layers: "4-9", "4"."""
    return f"{first}" if last - first == 1 else f"{first}-{last - 1}"


def show_list(names: tuple[str, ...] | list[str]) -> str:
    """Names in a sentence: "a, b and c"."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: "1 step", "2 steps"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"

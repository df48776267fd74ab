"""Quantities as people write them ("10 Mbit/s", "20 ms") and as programs use them (SI numbers).

Nothing else in the house parses or prints units. A number without its unit is refused; so is a unit
that could mean two things: "Mb", "Mbps" and "MBps" are bits to some tools and bytes to others, so
bits are always written "bit" and bytes "B". Prefixes are exact: k, M, G, T are powers of 1000;
Ki, Mi, Gi, Ti powers of 1024. Each ``show_`` function is the exact inverse of its reader,
``duration(show_duration(x)) == x`` for every x, unless digits are asked for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from topologies.errors import InputError, nearest

_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)"
    r"(?P<number>[0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?)"
    r" ?(?P<unit>[^\s0-9+.-]\S{0,20})?"
)
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True)
class _Dimension:
    """What one kind of quantity is called, and the units it comes in, small to large."""

    what: str
    example: str
    units: Mapping[str, Decimal]

    def read(self, text: object) -> Decimal:
        number, unit = self._parts(text)
        if unit not in self.units:
            meant = _FOREIGN.get(unit) or nearest(unit, self.units)
            hint = f"Did you mean {meant}? " if meant else ""
            raise InputError(
                f'"{unit}" in "{text}" is not a unit of {self.what.removeprefix("a ")}',
                remedy=f"{hint}The units are {', '.join(self.units)}",
            )
        return Decimal(number) * self.units[unit]

    def number(self, text: object) -> float:
        value = float(self.read(text))
        if not math.isfinite(value):
            raise InputError(f'"{text}" is too large')
        return value

    def integer(self, text: object, scale: int = 1) -> Decimal:
        value = self.read(text) * scale
        if value > _LARGEST_INTEGER:
            raise InputError(f'"{text}" is too large')
        return value

    def show(self, value: Decimal, *names: str) -> str:
        """In the largest of these units of which there is one at least, else in the smallest."""
        if not value:
            return f"0 {next(name for name in self.units if self.units[name] == 1)}"
        unit = next((name for name in names if value >= self.units[name]), names[-1])
        return f"{_plain(value / self.units[unit])} {unit}"

    def _parts(self, text: object) -> tuple[str, str]:
        remedy = f'Write it as "{self.example}"'
        if isinstance(text, int | float) and not isinstance(text, bool):
            text = str(text)
        if not isinstance(text, str):
            raise InputError(f"{self.what} was expected here", remedy=remedy)
        match = _QUANTITY.fullmatch(text.strip())
        if match is None or match["sign"]:
            raise InputError(f'"{text}" is not {self.what}', remedy=remedy)
        if not match["unit"]:
            unit = self.example.lstrip("0123456789")
            remedy = f'Write it with its unit, as "{match["number"]}{unit}"'
            raise InputError(f'"{text}" has no unit, and {self.what} needs one', remedy=remedy)
        return match["number"], match["unit"]


_SIZE = _Dimension(
    "a size",
    "512 MiB",
    {f"{prefix}B": Decimal(factor) for prefix, factor in {**_DECIMAL, **_BINARY}.items()},
)
_BANDWIDTH = _Dimension(
    "a bandwidth",
    "10 Mbit/s",
    {f"{prefix}bit/s": Decimal(factor) for prefix, factor in _DECIMAL.items()}
    | {f"{unit}/s": 8 * factor for unit, factor in _SIZE.units.items()},
)
_FLOPS = _Dimension(
    "a speed of computation",
    "12 GFLOP/s",
    {f"{prefix}FLOP/s": Decimal(factor) for prefix, factor in _DECIMAL.items()},
)
_TIME = _Dimension(
    "a time",
    "20 s",
    {
        "ns": Decimal("1e-9"),
        "us": Decimal("1e-6"),
        "µs": Decimal("1e-6"),
        "ms": Decimal("1e-3"),
        "s": Decimal(1),
        "min": Decimal(60),
        "h": Decimal(3600),
        "d": Decimal(86400),
    },
)
_PERCENTAGE = _Dimension("a percentage", "1 %", {"%": Decimal("0.01")})
_DRIFT = _Dimension(
    "a drift",
    "50 ppm",
    {"ppb": Decimal("1e-9"), "ppm": Decimal("1e-6"), "%": Decimal("0.01")},
)
_FACTOR = _Dimension("a factor", "4x", {"x": Decimal(1), "%": Decimal("0.01")})

# What people write elsewhere, and what they may have meant.
_FOREIGN = {
    **{
        f"{prefix}{unit}": f'"{right}bit/s" (bits) or "{right}B/s" (bytes)'
        for prefix, right in zip(("", *"kKmMgG"), ("", *"kkMMGG"), strict=True)
        for unit in ("bps", "b/s", "Bps", "bit", "b", "bits")
    },
    **dict.fromkeys(("sec", "secs", "second", "seconds", "S"), '"s"'),
    **dict.fromkeys(("m", "mins", "minute", "minutes"), '"min" or "ms"'),
    **dict.fromkeys(("hr", "hrs", "hour", "hours", "H"), '"h"'),
    **dict.fromkeys(("day", "days", "D"), '"d"'),
    **{unit: f'"{unit.upper()}B" or "{unit.upper()}iB"' for unit in "MGTgt"},
    **dict.fromkeys(("K", "k", "KB"), '"kB" (1000 bytes) or "KiB" (1024 bytes)'),
}


def duration(text: object) -> float:
    """Seconds: "20 ms" is 0.02. Units: ns, us, ms, s, min, h, d. Raises InputError."""
    return _TIME.number(text)


def nanoseconds(text: object) -> int:
    """Whole nanoseconds, for instants: "20 ms" is 20,000,000. Raises InputError."""
    return round(_TIME.integer(text, 10**9))


def bandwidth(text: object) -> float:
    """Bits per second: "10 Mbit/s" is 1e7, "10 MB/s" is 8e7. Raises InputError."""
    return _BANDWIDTH.number(text)


def size(text: object) -> int:
    """Bytes: "512 MiB" is 536,870,912, "512 MB" is 512,000,000. Raises InputError."""
    value = _SIZE.integer(text)
    if value != int(value):
        raise InputError(f'"{text}" is not a whole number of bytes', remedy="Write whole bytes")
    return int(value)


def flops(text: object) -> float:
    """Floating-point operations per second: "12 GFLOP/s" is 1.2e10. Raises InputError."""
    return _FLOPS.number(text)


def fraction(text: object) -> float:
    """A part of the whole: "1 %" is 0.01. From 0 % to 100 %. Raises InputError."""
    value = _PERCENTAGE.number(text)
    if value > 1:
        raise InputError(f'"{text}" is more than all of it', remedy="Write 0 % to 100 %")
    return value


def factor(text: object) -> float:
    """How many times: "4x" is 4.0, "10 %" is 0.1. Raises InputError."""
    return _FACTOR.number(text)


def offset(text: object) -> int:
    """Whole nanoseconds ahead or behind: "+200 ms", "-1 s"; without sign, ahead.

    Raises InputError.
    """
    sign, rest = _signed(text)
    return sign * nanoseconds(rest)


def drift(text: object) -> float:
    """How much faster or slower something runs: "50 ppm" is 5e-5, "-1 %" is -0.01.

    Units: ppb, ppm, %. Raises InputError.
    """
    sign, rest = _signed(text)
    return sign * _DRIFT.number(rest)


def foreign_bandwidth(value: object, unit: str | None = None) -> float:
    """Bits per second as other programs write them: 100 and "Mbps", or "100 Mbit".

    In files of other programs the spelling is no mystery: fnss, Shadow and the rest all mean bits
    by a "b" and bytes by a "B". Raises InputError.
    """
    return _elsewhere(value, unit, _BANDWIDTHS_ELSEWHERE, "a bandwidth")


def foreign_duration(value: object, unit: str | None = None) -> float:
    """Seconds as other programs write them: 5 and "milliseconds", or "5 ms". Raises InputError."""
    return _elsewhere(value, unit, _TIMES_ELSEWHERE, "a time")


def foreign_length_km(value: object, unit: str | None = None) -> float:
    """Kilometers as other programs write them: 500 and "m", or "5 Km". Raises InputError."""
    return _elsewhere(value, unit, _LENGTHS_ELSEWHERE, "a length")


def show_duration(seconds: float, digits: int | None = None) -> str:
    """The inverse of `duration`; *digits*, where given, rounds to so many significant ones."""
    return _show_time(_exact(seconds, digits))


def show_nanoseconds(instant_ns: int) -> str:
    """The inverse of `nanoseconds`."""
    return _show_time(Decimal(instant_ns).scaleb(-9))


def show_bandwidth(bits_per_second: float, digits: int | None = None) -> str:
    """The inverse of `bandwidth`, in bits; *digits* as in `show_duration`."""
    names = ("Tbit/s", "Gbit/s", "Mbit/s", "kbit/s", "bit/s")
    return _BANDWIDTH.show(_exact(bits_per_second, digits), *names)


def show_size(size_bytes: int, digits: int | None = None) -> str:
    """The inverse of `size`: in the largest unit that needs no more than three decimals.

    Of the binary one and the decimal one, the shorter to write. With *digits* it is rounded to so
    many significant ones, in the largest binary unit.
    """
    binary = ("TiB", "GiB", "MiB", "KiB")
    if digits is not None:
        unit = next((name for name in binary if size_bytes >= _SIZE.units[name]), "B")
        return f"{_plain(_exact(size_bytes / float(_SIZE.units[unit]), digits))} {unit}"
    texts: list[str] = []
    for units in (binary, ("TB", "GB", "MB", "kB")):
        for unit in units:
            scale = int(_SIZE.units[unit])
            if size_bytes >= scale and size_bytes * 1000 % scale == 0:
                texts.append(f"{_plain(Decimal(size_bytes * 1000 // scale) / 1000)} {unit}")
                break
    return min(texts, key=len, default=f"{size_bytes} B")


def show_flops(flops_per_second: float, digits: int | None = None) -> str:
    """The inverse of `flops`; *digits* as in `show_duration`."""
    names = ("TFLOP/s", "GFLOP/s", "MFLOP/s", "kFLOP/s", "FLOP/s")
    return _FLOPS.show(_exact(flops_per_second, digits), *names)


def show_fraction(part: float, digits: int | None = None) -> str:
    """The inverse of `fraction`; *digits* as in `show_duration`."""
    return f"{_plain(_exact(part, digits) * 100)} %"


def show_offset(offset_ns: int) -> str:
    """The inverse of `offset`, always with its sign."""
    return f"{'-' if offset_ns < 0 else '+'}{show_nanoseconds(abs(offset_ns))}"


def show_drift(part: float) -> str:
    """The inverse of `drift`."""
    if not part:
        return "0 ppm"
    shown = _DRIFT.show(_exact(abs(part), None), "%", "ppm", "ppb")
    return f"-{shown}" if part < 0 else shown


def show_number(value: float) -> str:
    """A number without a unit, as a file writes it and reads it back: "5", "2.5", "1e+20"."""
    return repr(float(value)).removesuffix(".0")


def show_factor(times: float) -> str:
    """The inverse of `factor`, as "4x"."""
    return f"{_plain(_exact(times, None))}x"


_BANDWIDTHS_ELSEWHERE = {
    f"{prefix}{spelling}": float(factor * size)
    for prefix, factor in {
        "": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12,
        "kilo": 10**3, "mega": 10**6, "giga": 10**9, "tera": 10**12,
        "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40,
        "kibi": 2**10, "mebi": 2**20, "gibi": 2**30, "tebi": 2**40,
    }.items()
    for size, spellings in ((1, "b bps b/s bit bits bit/s"), (8, "B Bps B/s byte bytes byte/s"))
    for spelling in spellings.split()
}  # fmt: skip
_TIMES_ELSEWHERE = {
    spelling: scale
    for scale, spellings in (
        (1e-9, "ns nanosec nanosecond nanoseconds"),
        (1e-6, "us µs μs microsec microsecond microseconds"),
        (1e-3, "ms millisec millisecond milliseconds"),
        (1.0, "s sec secs second seconds"),
        (60.0, "m min mins minute minutes"),
        (3600.0, "h hr hrs hour hours"),
    )
    for spelling in spellings.split()
}
_LENGTHS_ELSEWHERE = {"m": 1e-3, "km": 1.0, "Km": 1.0, "KM": 1.0, "mi": 1.609344}
_NUMBER_AND_UNIT = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*([^\s0-9]\S*)?\s*")


def _elsewhere(value: object, unit: str | None, known: Mapping[str, float], what: str) -> float:
    number = value
    remedy = "Write a number that is not negative, with a unit where the file names none"
    if isinstance(value, str):
        match = _NUMBER_AND_UNIT.fullmatch(value)
        if match is None:
            raise InputError(f'"{value}" is not {what}', remedy=remedy)
        number, unit = float(match[1]), match[2] or unit
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{what} was expected here", remedy=remedy)
    if not math.isfinite(number) or number < 0:
        problem = f"{what} is finite and not negative, unlike {number}"
        raise InputError(problem, remedy=remedy)
    if unit is None:
        raise InputError(f"{number} has no unit, and {what} needs one", remedy=remedy)
    if unit not in known:
        remedy = f"The units are {', '.join(known)}"
        raise InputError(f'"{unit}" is not a unit of {what.removeprefix("a ")}', remedy=remedy)
    return number * known[unit]


def _signed(text: object) -> tuple[int, object]:
    """The sign that a quantity may have before it, and the quantity."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str) or text.strip()[:1] not in ("+", "-"):
        return 1, text
    text = text.strip()
    return (-1 if text[0] == "-" else 1), text[1:].lstrip()


def _show_time(seconds: Decimal) -> str:
    whole = int(seconds) if seconds < _LARGEST_INTEGER else 0
    if whole and whole == seconds:
        for unit in ("d", "h", "min"):
            if whole % int(_TIME.units[unit]) == 0:
                return _TIME.show(seconds, unit)
    return _TIME.show(seconds, "s", "ms", "us", "ns")


def _exact(value: float, digits: int | None) -> Decimal:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"a quantity is finite and not negative, unlike {value}")
    exact = Decimal(repr(float(value)))
    return exact if digits is None else Decimal(f"{exact:.{digits}g}")


def _plain(value: Decimal) -> str:
    """Digits without trailing zeros; with an exponent only where they would be too many."""
    text = f"{value.normalize():f}"
    return text if len(text) <= 30 else f"{value.normalize():e}"

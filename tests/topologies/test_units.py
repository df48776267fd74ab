"""Quantities are read and written exactly, and nothing ambiguous gets through."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topologies import InputError, units
from topologies.document import parse_yaml

FLOATS = st.floats(min_value=1e-12, max_value=1e18) | st.just(0.0)


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.duration, "20 ms", 0.02),
        (units.duration, "20ms", 0.02),
        (units.duration, "1.5 s", 1.5),
        (units.duration, "4 min", 240.0),
        (units.duration, "1 h", 3600.0),
        (units.duration, "2 d", 172800.0),
        (units.duration, "150 us", 0.00015),
        (units.duration, "150 µs", 0.00015),
        (units.duration, "3 ns", 3e-9),
        (units.duration, "0 s", 0.0),
        (units.duration, "1e3 ms", 1.0),
        (units.nanoseconds, "20 ms", 20_000_000),
        (units.nanoseconds, "0.1 s", 100_000_000),
        (units.nanoseconds, "2 min", 120_000_000_000),
        (units.bandwidth, "10 Mbit/s", 1e7),
        (units.bandwidth, "10 MB/s", 8e7),
        (units.bandwidth, "1 MiB/s", 8.0 * 2**20),
        (units.bandwidth, "9600 bit/s", 9600.0),
        (units.bandwidth, "2.5 Gbit/s", 2.5e9),
        (units.size, "512 MiB", 512 * 2**20),
        (units.size, "512 MB", 512_000_000),
        (units.size, "1.5 GiB", 3 * 2**29),
        (units.size, "7 B", 7),
        (units.flops, "12 GFLOP/s", 1.2e10),
        (units.fraction, "1 %", 0.01),
        (units.fraction, "100%", 1.0),
        (units.factor, "4x", 4.0),
        (units.factor, "10 %", 0.1),
        (units.factor, "300 %", 3.0),
        (units.offset, "+200 ms", 200_000_000),
        (units.offset, "-1 s", -1_000_000_000),
        (units.offset, "- 3 ns", -3),
        (units.offset, "2 min", 120_000_000_000),
        (units.drift, "50 ppm", 5e-5),
        (units.drift, "-50 ppm", -5e-5),
        (units.drift, "+1 %", 0.01),
        (units.drift, "20 ppb", 2e-8),
    ],
)
def test_a_quantity_with_its_unit_is_the_si_number(read, text, value):
    assert read(text) == value


@pytest.mark.parametrize("read", [units.duration, units.bandwidth, units.size, units.fraction])
@pytest.mark.parametrize(
    "text",
    ["", "20", 20, 2.5, "fast", "-3 s", "+3 s", "1:30", "1,5 s", ".5 s", "1_000 B", "inf s",
     "nan s", "3 s s", "0x10 B", None, True, ["20 s"], "1e9999 s", "9" * 50 + " s", "1 s\n2"],
)  # fmt: skip
def test_what_is_no_quantity_is_refused_with_an_example(read, text):
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("read", "text", "hint"),
    [
        (units.bandwidth, "10 Mbps", '"Mbit/s" (bits) or "MB/s" (bytes)'),
        (units.bandwidth, "10 mbps", '"Mbit/s" (bits)'),
        (units.bandwidth, "10 Mb/s", '"MB/s" (bytes)'),
        (units.bandwidth, "10 MBps", '"Mbit/s" (bits)'),
        (units.bandwidth, "10 MiB", "MiB/s"),
        (units.bandwidth, "10 ms", "bit/s"),
        (units.size, "10 Mbit", '"Mbit/s" (bits) or "MB/s" (bytes)'),
        (units.size, "10 K", '"KiB" (1024 bytes)'),
        (units.size, "10 G", '"GB" or "GiB"'),
        (units.duration, "10 m", '"min" or "ms"'),
        (units.duration, "10 sec", '"s"'),
        (units.flops, "10 GFLOPS", "GFLOP/s"),
    ],
)
def test_an_ambiguous_or_foreign_unit_is_refused_and_the_right_ones_are_named(read, text, hint):
    with pytest.raises(InputError) as caught:
        read(text)
    assert hint in str(caught.value)


@pytest.mark.parametrize("read", [units.offset, units.drift])
@pytest.mark.parametrize("text", ["", "+", "--3 ms", "+-3 ppm", "200", -200, "3 pm", None, True])
def test_what_is_no_quantity_with_a_sign_is_refused_with_an_example(read, text):
    with pytest.raises(InputError) as caught:
        read(text)
    assert caught.value.remedy


def test_a_number_without_unit_is_told_how_it_would_look_with_one():
    with pytest.raises(InputError, match='Write it with its unit, as "30 s"'):
        units.duration(30)


def test_parts_of_a_byte_and_more_than_everything_are_refused():
    with pytest.raises(InputError, match="whole number of bytes"):
        units.size("0.3 B")
    with pytest.raises(InputError, match="more than all"):
        units.fraction("101 %")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.02 s", "20 ms"),
        ("60 s", "1 min"),
        ("90 s", "90 s"),
        ("7200 s", "2 h"),
        ("86400 s", "1 d"),
        ("0 s", "0 s"),
        ("0.00015 s", "150 us"),
        ("0.5 ns", "0.5 ns"),
    ],
)
def test_durations_are_shown_in_the_unit_a_person_would_choose(text, shown):
    assert units.show_duration(units.duration(text)) == shown


def test_sizes_are_shown_in_the_largest_unit_that_stays_readable():
    assert units.show_size(512 * 2**20) == "512 MiB"
    assert units.show_size(3 * 2**29) == "1.5 GiB"
    assert units.show_size(10**6) == "1 MB"
    assert units.show_size(1025) == "1.025 kB"
    assert units.show_size(999) == "999 B"
    assert units.show_size(0) == "0 B"


def test_digits_round_what_is_shown():
    assert units.show_bandwidth(12_345_678.0, digits=3) == "12.3 Mbit/s"
    assert units.show_size(1_234_567_890, digits=3) == "1.15 GiB"
    assert units.show_duration(1.23456, digits=2) == "1.2 s"
    assert units.show_flops(3.84e11, digits=2) == "380 GFLOP/s"


@given(FLOATS)
@settings(derandomize=True)
def test_what_is_shown_reads_back_as_exactly_the_same_number(value):
    assert units.duration(units.show_duration(value)) == value
    assert units.bandwidth(units.show_bandwidth(value)) == value
    assert units.flops(units.show_flops(value)) == value
    assert units.factor(units.show_factor(value)) == value
    assert units.factor(units.show_fraction(value)) == value


@given(st.integers(min_value=0, max_value=2**63 - 1))
@settings(derandomize=True)
def test_whole_nanoseconds_and_bytes_read_back_as_exactly_the_same(value):
    assert units.nanoseconds(units.show_nanoseconds(value)) == value
    assert units.size(units.show_size(value)) == value


@given(st.floats(min_value=0.0, max_value=1.0))
@settings(derandomize=True)
def test_fractions_read_back_as_exactly_the_same(value):
    assert units.fraction(units.show_fraction(value)) == value


@given(st.integers(min_value=-(2**63) + 1, max_value=2**63 - 1))
@settings(derandomize=True)
def test_offsets_read_back_as_exactly_the_same_and_always_have_a_sign(value):
    shown = units.show_offset(value)
    assert shown[0] in "+-"
    assert units.offset(shown) == value


@given(FLOATS, st.sampled_from([-1, 1]))
@settings(derandomize=True)
def test_drifts_read_back_as_exactly_the_same(value, sign):
    assert units.drift(units.show_drift(sign * value)) == sign * value


@given(st.floats(min_value=1.0, max_value=1e300))
@settings(derandomize=True)
def test_numbers_without_unit_read_back_from_a_file_as_exactly_the_same(value):
    document = parse_yaml(f"key: {units.show_number(value)}", "file.yaml")
    assert document.value == {"key": value}


def test_reading_rounds_once_and_correctly():
    assert units.bandwidth("0.1 Mbit/s") == float(Decimal("0.1") * 10**6)
    assert units.duration("0.1 ms") == 1e-4

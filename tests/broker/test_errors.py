"""Errors say which node, when, and what would be right."""

from __future__ import annotations

import pytest

from broker import errors


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            errors.SpinError("a", 1.5, 1_000),
            ["node a", "1,000 steps", "1.500000 s", "asyncio.sleep"],
        ),
        (
            errors.RealWorldError("a", "getaddrinfo", "use send"),
            ["node a", "getaddrinfo", "use send"],
        ),
        (errors.ProgramError("a", 2.0, "Traceback: x"), ["node a", "2.000000 s", "Traceback: x"]),
        (errors.DeadlockError(3.0, {"a": "main (x.py:3)"}), ["3.000000 s", "a: main (x.py:3)"]),
        (errors.LimitError(3.0, {"a": "main (x.py:3)"}), ["after 3 virtual", "a: main (x.py:3)"]),
        (errors.LostError("a", 3.0), ["node a", "3.000000 s", "`for`", "`background`"]),
        (errors.LivelockError(4.0, 10), ["10 rounds", "4.000000 s"]),
        (
            errors.DeviceMemoryError("a", "layers 0-3", 300, 200, 1_000),
            ["node a", "200 of 1,000 bytes", "layers 0-3 needs 300"],
        ),
    ],
)
def test_an_error_says_where_when_and_what(error, words):
    assert isinstance(error, errors.BrokerError)
    for word in words:
        assert word in str(error)

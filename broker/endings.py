"""How a command ends: what it tells a person, and its exit status.

0    it did what it was asked
1    something went wrong on the way
2    what it was given is wrong
130  Ctrl-C
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console

from broker.errors import BrokerError, ProgramError
from topologies import InputError


@contextlib.contextmanager
def endings() -> Iterator[None]:
    """Turns the errors of a command into a line on stderr and an exit status."""
    try:
        yield
    except InputError as error:
        say(f"error: {error}")
        sys.exit(2)
    except ProgramError as error:
        if error.problem:
            say(f"error: {error.problem}")
            sys.exit(2)
        say(f"error: {error}")
        sys.exit(1)
    except BrokerError as error:
        say(f"error: {error}")
        sys.exit(1)
    except OSError as error:  # a full disk, say; what is known to be the user's doing is InputError
        place = f"{error.filename}: " if error.filename else ""
        say(f"error: {place}{error.strerror or error}")
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)


def say(text: str) -> None:
    """A line on stderr, as it is."""
    Console(stderr=True, soft_wrap=True, markup=False, highlight=False).print(text)

"""What was computed, kept on disk by content, so that nothing has to be computed twice.

A run in virtual time is a function of its config and seed, and nearly all of its real time goes
into real computation. So a run that was killed is begun again from the start, and takes what its
earlier life had computed from this journal: it passes the point at which it was killed within
seconds, and comes to the same end.

A result is kept under a digest of all that it depends on: the model, the layers, the adapter that a
session began from and every call since, with its arguments. Neither node nor time is in it. So the
same journal serves other networks and other scenarios: what is learned is computed once and
replayed through all of them.
"""

from atlas.journal.records import Journal
from atlas.journal.sessions import begin, load

__all__ = ["Journal", "begin", "load"]

"""The speed of a run, from the commits of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_RECENT = 600.0
"""Seconds over which the speed is measured, if parts don't take long."""

_PARTS_OF_RECENT = 20
"""Length of the time over which the speed is measured, in the time that the longest part took."""

_PAUSE = 60.0
"""Seconds without work after which an earlier attempt of the run has nothing to do with its speed.
"""


@dataclass(frozen=True, slots=True)
class Commit:
    """A committed part.

    time     of the commit, in seconds since 1970; 0 if the store does not report it
    seconds  that the steps worked on it; 0 while its receipt has not been read
    """

    time: float
    rows: int
    seconds: float = 0.0


def rows_per_second(commits: Sequence[Commit]) -> float:
    """Return the speed of a run in its last minutes; 0 if it is unknown.

    Time during which nobody worked on a part, such as between two attempts, does not count: the
    measured time begins after the last pause. It is long compared to the time that a part takes,
    because parts that are in work do not count either.
    """
    newest_first = sorted(commits, key=lambda commit: commit.time, reverse=True)
    end = newest_first[0].time if newest_first else 0.0
    if not end:
        return 0.0
    longest = max(commit.seconds for commit in commits)
    earliest = end - max(_RECENT, _PARTS_OF_RECENT * longest)
    # Go back from the newest part to the last pause, or to the earliest time of interest.
    rows, begin = 0, end
    for commit in newest_first:
        if commit.time <= earliest or commit.time < begin - _PAUSE:
            break
        rows += commit.rows
        begin = min(begin, commit.time - commit.seconds)
    begin = max(begin, earliest)
    return rows / (end - begin) if begin < end else 0.0

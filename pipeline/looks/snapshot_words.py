"""Say in words what a snapshot of a run shows: the same for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.looks.snapshot import Snapshot

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def describe_state(snapshot: Snapshot) -> str:
    """Return what the run is doing, or how it has ended."""
    if snapshot.trouble:
        return f"can't be read at the moment: {snapshot.trouble}"
    if snapshot.state == "waiting":
        return "waiting for a run to start: there is no run.json yet"
    all_rows = snapshot.exact and snapshot.rows == snapshot.planned_rows > 0
    if snapshot.state == "running" and all_rows:
        return "running: all parts are there, the last steps are not done"
    return "; ".join([snapshot.state, *snapshot.why])


def share_done(snapshot: Snapshot) -> float | None:
    """Return the share of the planned rows that is done, in [0, 1]; None if it is unknown."""
    if not snapshot.planned_rows:
        return None
    return min(1.0, snapshot.rows / snapshot.planned_rows)


def figures(snapshot: Snapshot) -> Iterator[tuple[str, str]]:
    """Yield the names and the values of the figures of a run; "–" for unknown ones."""
    left, since = snapshot.seconds_left, snapshot.since_commit
    share = share_done(snapshot)
    percent = "" if share is None else f" ({100 * share:.0f} %)"
    speed = snapshot.rows_per_second
    yield "rows", _of(snapshot.rows, snapshot.planned_rows, snapshot.exact) + percent
    yield "parts", _of(snapshot.parts, snapshot.planned_parts, snapshot.exact)
    yield "speed", f"{speed:,.1f} rows/s" if speed else "–"
    yield "time left", "–" if left is None else duration(left)
    yield "last part", "–" if since is None else f"{duration(since)} ago"


def outcome_counts(snapshot: Snapshot) -> Iterator[tuple[str, int]]:
    """Yield the outcomes, then the reasons of rejections, with the number of each."""
    for status, count in snapshot.outcomes.items():
        yield status.replace("_", " "), count
    for reason, count in snapshot.reasons.items():
        yield f"reason: {reason}", count


def covered(snapshot: Snapshot) -> str:
    """Return what the accounting covers."""
    unread = snapshot.parts - snapshot.receipts
    rest = f" ({unread:,} parts have not been read yet)" if unread else ""
    return f"{snapshot.unit} of {snapshot.receipts:,} parts{rest}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units: "3 h 20 min"."""
    rest, parts = max(0, round(seconds)), []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _of(done: int, planned: int, exact: bool) -> str:
    """Return how many of the planned are done."""
    if not planned:
        return f"{done:,}"
    return f"{done:,} of {'' if exact else 'about '}{planned:,}"

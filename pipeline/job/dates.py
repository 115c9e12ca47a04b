"""Expand dated jobs: `{date}` in --input and --output means a separate run for each day."""

from __future__ import annotations

import argparse
import datetime

from pipeline.job.options import Refused

_DATE = "{date}"


def each_day(options: argparse.Namespace) -> list[argparse.Namespace]:
    """Return the options of each day's run, first day first; unchanged if nothing is dated.

    Raises Refused if days would share an output or an input, and for a --date without effect.
    """
    dated = {name for name in ("input", "output") if _DATE in getattr(options, name)}
    if not dated:
        if options.date:
            raise Refused(
                f"--date={_written(options.date)}: neither --input nor --output has {_DATE}"
            )
        return [options]
    # One output for several days would be claimed by the first.
    if "output" not in dated:
        raise Refused(
            f"--output={options.output} must have {_DATE} as --input does: "
            "each day is a separate run"
        )
    days = options.date or (datetime.datetime.now(datetime.UTC).date(),)
    if len(days) > 1 and "input" not in dated:
        raise Refused(
            f"--date={_written(days)}: --input={options.input} has no {_DATE}: "
            "each day would read the same"
        )
    return [_on(options, day) for day in days]


def _on(options: argparse.Namespace, day: datetime.date) -> argparse.Namespace:
    """Return the options of one day's run."""
    paths = {
        name: getattr(options, name).replace(_DATE, day.isoformat()) for name in ("input", "output")
    }
    return argparse.Namespace(**{**vars(options), **paths, "date": (day,)})


def _written(days: tuple[datetime.date, ...]) -> str:
    """Return days as the value of --date."""
    return "..".join(day.isoformat() for day in dict.fromkeys((days[0], days[-1])))

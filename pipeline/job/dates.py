"""Dated jobs: `{date}` in --input and --output, and a run of its own for each day of --date."""

from __future__ import annotations

import argparse
import datetime

from pipeline.job.options import Refused

_DATE = "{date}"


def each_day(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of every day's run, first day first; the options themselves where nothing is dated.

    Raises Refused where days would stand in each other's place, or where --date is given for nothing.
    """
    dated = {name for name in ("input", "output") if _DATE in getattr(options, name)}
    if not dated:
        if options.date:
            raise Refused(
                f"--date={_written(options.date)}: neither --input nor --output holds {_DATE}"
            )
        return [options]
    if "output" not in dated:
        raise Refused(
            f"--output={options.output} must hold {_DATE} as --input does: each day is a run of its own"
        )
    days = options.date or (datetime.datetime.now(datetime.UTC).date(),)
    if len(days) > 1 and "input" not in dated:
        raise Refused(
            f"--date={_written(days)}: --input={options.input} holds no {_DATE}, each day would be the same"
        )
    return [_on(options, day) for day in days]


def _on(options: argparse.Namespace, day: datetime.date) -> argparse.Namespace:
    places = {
        name: getattr(options, name).replace(_DATE, day.isoformat()) for name in ("input", "output")
    }
    return argparse.Namespace(**{**vars(options), **places, "date": (day,)})


def _written(days: tuple[datetime.date, ...]) -> str:
    return "..".join(day.isoformat() for day in dict.fromkeys((days[0], days[-1])))

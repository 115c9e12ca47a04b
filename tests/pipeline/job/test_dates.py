"""Dated jobs: each day is a separate run, which is the same whenever it starts."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from pipeline.job.dates import each_day
from pipeline.job.identity import claim
from pipeline.job.options import Refused, parse
from pipeline.job.resolve import resolve
from tests.runs import examples, identities, read_manifest, read_parts, run, write_input


def places(*arguments: str) -> list[tuple[str, str]]:
    """Return (input, output) of every day."""
    return [
        (options.input, options.output) for options in each_day(parse(["annotate", *arguments])[0])
    ]


DATED = ("--input=gs://b/in/date={date}/*.parquet", "--output=gs://b/out/date={date}")


@pytest.mark.parametrize(
    ("date", "days"),
    [
        ("2026-11-24", ["2026-11-24"]),
        ("2026-11-01..2026-11-01", ["2026-11-01"]),
        ("2024-02-28..2024-03-01", ["2024-02-28", "2024-02-29", "2024-03-01"]),
    ],
)
def test_every_day_has_its_places(date: str, days: list[str]):
    wanted = [(f"gs://b/in/date={day}/*.parquet", f"gs://b/out/date={day}") for day in days]
    assert places(*DATED, f"--date={date}") == wanted


def test_the_default_is_today_in_utc():
    before = datetime.datetime.now(datetime.UTC).date()
    ((_, output),) = places(*DATED)
    assert output in {
        f"gs://b/out/date={day}" for day in (before, datetime.datetime.now(datetime.UTC).date())
    }


def test_without_dates_nothing_changes():
    assert places("--input=a", "--output=b") == [("a", "b")]


def test_what_is_not_dated_may_be_read_on_every_day():
    assert places("--input=all/*.parquet", "--output=out/{date}", "--date=2026-11-24") == [
        ("all/*.parquet", "out/2026-11-24")
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--input=a", "--output=b", "--date=2026-11-24"),
            "--date=2026-11-24: neither --input nor --output has {date}",
        ),
        (("--input={date}", "--output=b"), "--output=b must have {date} as --input does"),
        (
            ("--input=a", "--output={date}", "--date=2026-11-01..2026-11-02"),
            "--input=a has no {date}",
        ),
    ],
)
def test_days_in_each_others_place_are_refused(arguments: tuple[str, ...], message: str):
    with pytest.raises(Refused) as refused:
        places(*arguments)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "date",
    [
        "",
        "today",
        "2026-13-01",
        "2026-11-31",
        "2026-11-02..2026-11-01",
        "2024-01-01..2025-01-01",
        "2026-11-01.."[:-1],
    ],
)
def test_what_is_no_day_is_refused(date: str, capfd: pytest.CaptureFixture[str]):
    assert run("annotate", *DATED, f"--date={date}") == 2
    assert "argument --date" in capfd.readouterr().err


class TestRuns:
    @pytest.fixture
    def arguments(self, tmp_path: Path, bert_folder: Path) -> tuple[str, ...]:
        for day, first in ((1, 0), (3, 10)):
            write_input(tmp_path / "in" / f"date=2026-11-0{day}" / "a.parquet", examples(3, first))
        return (
            f"--input={tmp_path}/in/date={{date}}/*.parquet",
            f"--output={tmp_path}/out/date={{date}}",
            f"--model={bert_folder}",
        )

    def test_a_back_fill_goes_on_past_a_day_without_input(
        self, tmp_path: Path, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
    ):
        assert run("annotate", *arguments, "--date=2026-11-01..2026-11-03") == 2
        assert "date=2026-11-02/*.parquet' matches no file" in capfd.readouterr().err
        out = tmp_path / "out"
        assert sorted(path.name for path in out.iterdir()) == ["date=2026-11-01", "date=2026-11-03"]
        assert read_parts(out / "date=2026-11-03").column("id").to_pylist() == [
            "row 10",
            "row 11",
            "row 12",
        ]

        before = identities(out / "date=2026-11-01")
        write_input(tmp_path / "in" / "date=2026-11-02" / "a.parquet", examples(2))
        assert run("annotate", *arguments, "--date=2026-11-01..2026-11-03") == 0
        assert identities(out / "date=2026-11-01") == before
        assert read_manifest(out / "date=2026-11-02")["rows"]["answered"] == 2

    def test_a_day_alone_and_in_a_range_is_the_same_run(
        self, tmp_path: Path, arguments: tuple[str, ...]
    ):
        assert run("annotate", *arguments, "--date=2026-11-03") == 0
        options, rest = parse(["annotate", *arguments, "--date=2026-11-01..2026-11-03"])
        _, _, third = each_day(options)
        assert claim(resolve(third, PipelineOptions(rest)), overwrite=False) is True

    def test_a_range_is_no_template(
        self, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]
    ):
        days = "--date=2026-11-01..2026-11-03"
        assert run("annotate", *arguments, days, "--template_location=gs://b/t") == 2
        assert "several days are several jobs" in capfd.readouterr().err

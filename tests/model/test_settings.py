"""Settings: each value is within its limits, or refused with its name, its value and the limit."""

from __future__ import annotations

import datetime
import re
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from model.settings import (
    AUDIT,
    BOTH,
    Kind,
    SettingError,
    days,
    declared,
    flag,
    fractions,
    identity_of,
    make,
    make_all,
    names,
    number,
    one_of,
    probability,
    setting,
    some_of,
    text,
    whole,
)


@dataclass(frozen=True)
class Lamps:
    count: int = setting(3, whole(1, 9), "how many", identity=BOTH)
    height: float = setting(1.5, number(0, 10), "in metres", unset="the tower's", identity=(AUDIT,))
    lit: bool | None = setting(None, one_of(auto=None, on=True, off=False), "whether they are lit")
    made: str = "here"


@dataclass(frozen=True)
class Boats:
    boats: int = setting(0, whole(0, 5), "how many")
    age: int = setting(7, whole(0, 99), "in years", option=False)
    oars: int = setting(2, whole(0, 8), "how many", identity=BOTH, optional=True)


def test_defaults_that_depend_on_the_job_are_none_until_they_are_resolved():
    assert make(Lamps, {}) == Lamps(3, None, None)
    assert Lamps().height == 1.5
    assert [(name, default) for name, default, _ in declared(Lamps)] == [
        ("count", 3),
        ("height", None),
        ("lit", None),
    ]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"count": 9}, Lamps(9, None)),
        ({"count": "9"}, Lamps(9, None)),
        ({"height": 0}, Lamps(3, 0)),
        ({"height": "2.5", "lit": "on"}, Lamps(3, 2.5, True)),
        ({"lit": "auto"}, Lamps(3, None, None)),
        ({"lit": False}, Lamps(3, None, False)),
    ],
)
def test_values_and_text_within_the_limits(given: dict[str, Any], meant: Lamps):
    assert make(Lamps, given) == meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 0}, "count=0: must be a whole number from 1 to 9"),
        ({"count": 10}, "count=10: must be a whole number from 1 to 9"),
        ({"count": 2.0}, "count=2.0: must be a whole number from 1 to 9"),
        ({"count": True}, "count=True: must be a whole number from 1 to 9"),
        ({"count": None}, "count=None: must be a whole number from 1 to 9"),
        ({"count": "many"}, "count=many: must be a whole number from 1 to 9"),
        ({"height": float("nan")}, "height=nan: must be a number from 0 to 10"),
        ({"height": "inf"}, "height=inf: must be a number from 0 to 10"),
        ({"lit": "maybe"}, "lit=maybe: must be auto, on or off"),
    ],
)
def test_a_value_outside_its_limits_is_refused(given: dict[str, Any], message: str):
    with pytest.raises(SettingError) as refused:
        make(Lamps, given)
    assert str(refused.value) == message


def test_every_kind_reads_what_its_pattern_allows_and_nothing_else():
    kinds = {
        whole(1, 9): ("9", "x"),
        number(0, 1): ("0.25", "1.5"),
        one_of(a=1, b=2): ("b", "c"),
        flag(): ("True", "yes"),
        text("DEVICE", "cpu|cuda"): ("cuda", "tpu"),
        probability(): ("precision:0.9", "precision:1.5"),
        days(2): ("2026-11-01..2026-11-02", "2026-11-01..2026-11-03"),
        some_of("a", "b"): ("b,a", "a,c"),
    }
    for kind, (good, bad) in kinds.items():
        assert kind.takes(kind.read(good))
        with suppress(ValueError, KeyError):
            assert not kind.takes(kind.read(bad))
    assert probability().takes(probability().read("0.9"))
    for bad in ("precision:", "precision:0", "precision:1", "precision:0.0", "1.1", "nan"):
        assert not probability().takes(probability().read(bad))
    assert fractions().read("0.9, 0.8,0.9") == (0.8, 0.9)
    assert not any(map(fractions().takes, [(), (0.0,), (0.5, 1.0), 0.5]))
    assert names().read(" b,a ,b,") == ("b", "a")
    assert days().read("2026-11-30..2026-12-01") == (
        datetime.date(2026, 11, 30),
        datetime.date(2026, 12, 1),
    )
    assert not days().takes(days().read("2026-12-01..2026-11-30"))
    assert some_of("a", "b", "c").read("c, a,c") == ("a", "c")
    assert some_of("a", "b").read("") == ()


@pytest.mark.parametrize("kind", [some_of("a", "b"), some_of("a")])
@pytest.mark.parametrize("listed", ["a", "b", "a,b", "b,a", "c", "a,c", ""])
def test_a_pattern_allows_what_its_kind_takes(kind: Kind, listed: str):
    """A template launcher checks the pattern, and only for options that are given."""
    takes = kind.takes(kind.read(listed)) and listed != ""
    assert (re.fullmatch(kind.pattern, listed) is not None) == takes


def test_several_groups_share_the_values_and_know_every_name():
    assert make_all((Lamps, Boats), {"boats": 2, "count": 4}) == [Lamps(4, None), Boats(2)]
    for unknown in (
        "made",
        "age",
        "ships",
    ):  # a plain field, one that users don't set, one that is nowhere
        with pytest.raises(
            TypeError,
            match=f"'{unknown}' is not a setting; the settings are boats, count, height, lit, oars",
        ):
            make_all((Lamps, Boats), {unknown: 1})


def test_the_identity_of_a_stage_holds_what_its_answers_depend_on():
    lamps = Lamps(count=4, height=2.0)
    assert identity_of(lamps, "annotate") == {"count": 4}
    assert identity_of(lamps, "audit") == {"count": 4, "height": 2.0}


def test_an_optional_feature_that_is_off_is_no_part_of_the_identity():
    assert identity_of(Boats(), "annotate") == {}
    assert identity_of(Boats(oars=4), "annotate") == {"oars": 4}

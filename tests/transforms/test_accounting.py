"""Accounting: manifests, audit.json and the report say the same about totals."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from model.audit.statistics import Statistics
from pipeline.looks.summary import audit_figures
from tests.transforms.fakes import claimed
from tests.transforms.report.samples import ABOUT
from transforms.accounting import StageOutput
from transforms.measure_loss import NEAR
from transforms.merge_receipts import Totals
from transforms.report.page import audit_page
from transforms.write_audit import audit_report, write_audit
from transforms.write_manifest import write_manifests


@pytest.mark.parametrize(("unknown", "warned"), [(0, False), (50, False), (51, True), (1000, True)])
def test_much_text_that_the_tokenizer_does_not_know_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unknown: int, warned: bool
):
    outputs = (
        StageOutput(claimed(tmp_path / "audit", "audit"), ABOUT),
        StageOutput(claimed(tmp_path), ABOUT),
    )
    counts = {"characters": 1000, "unknown_characters": unknown}
    of = {
        "audit": Totals(counts=Counter(counts, rows=1, scored=1)),
        "annotate": Totals(counts=Counter(counts, rows=1, answered=1)),
    }
    write_audit(of, outputs[0])
    assert write_manifests(of, outputs, 0.5) == "complete"
    for path in ("manifest.json", "audit/manifest.json", "audit/audit.json"):
        found = json.loads((tmp_path / path).read_text("utf-8"))["unknown_text"]
        assert bool(found.pop("warning")) == warned
        assert found == {**counts, "share": unknown / 1000}
    page = (tmp_path / "audit" / "report.html").read_text("utf-8")
    assert len(caplog.records) == page.count('role="alert"') == warned
    if warned:
        assert (
            f"{unknown / 10:.1f} % of the contexts' characters are in unknown tokens" in caplog.text
        )
        assert f"{unknown / 10:.1f} % of the contexts" in page


@pytest.mark.parametrize("trained", [True, False])
def test_hints_say_what_to_do_about_rows_without_a_loss(trained: bool):
    about = {**ABOUT, "null_trained": trained}
    of = Totals(reasons=Counter(no_null_option=22, gold_blank=3, gold_misaligned=2))
    of.counts[f"{NEAR}case"] = 2
    unanswerable, blank, case = audit_report(of, about)["hints"]
    assert unanswerable.startswith(
        "22 rows without golds have no loss: --null on gives them one (the null option "
    )
    assert ("is trained in this checkpoint" in unanswerable) == trained
    assert blank.startswith("3 rows have a blank gold: unanswerable questions have empty lists")
    assert case == "2 misaligned golds differ from the text at their start only in case"
    report = audit_report(of, about)
    assert report["golds_misaligned_only_in"] == {"case": 2}
    page = audit_page(report, {}, about).decode()
    assert all(f"<p>{escape(hint)}.</p>" in page for hint in report["hints"])
    assert all(hint in audit_figures(report).splitlines() for hint in report["hints"])
    assert audit_report(Totals(), about)["hints"] == []


def several_places(**options: object) -> tuple[dict[str, Any], str]:
    """Return audit.json and the report of two rows, one of them with golds at two places."""
    about = {**ABOUT, "configuration": {**ABOUT["configuration"], **options}}
    totals = Totals(statistics=Statistics(), counts=Counter(rows_with_several_places=1))
    assert totals.statistics is not None
    if options:
        totals.statistics.spans.add([("Ada", 0.5), ("oil", 0.25)], [["Ada"], ["Otto"]], 0.5)
        totals.statistics.spans.add([("lamp", 0.5)], [["lamp"]], 0.5)
    report = audit_report(totals, about)
    return report, audit_page(report, {}, about).decode()


def test_rows_with_golds_at_several_places_are_a_hint_without_distinct_spans():
    report, page = several_places()
    assert report["hints"] == [
        "1 rows have golds at several places: --distinct or --all_answers X measures how many of "
        "them are found"
    ]
    assert "several_answers" not in report
    assert "Precision against recall" not in page


def test_an_audit_of_distinct_spans_has_precision_and_recall_over_them():
    report, page = several_places(distinct=True, all_answers=0.5)
    assert report["hints"] == []
    several = report["several_answers"]
    assert (several["rows"], several["rows_with_several_places"], several["places"]) == (2, 1, 3)
    assert several["all_answers"]["precision"] == 100.0
    assert several["all_answers"]["recall"] == pytest.approx(200 / 3)
    assert "Best F1 over spans" in page and "Precision against recall" in page
    printed = audit_figures(report).splitlines()
    assert "3 places with a gold; 1 of 2 rows have several" in printed
    assert (
        "all answers, of probability 0.5 or more: precision 100.00, recall 66.67, F1 80.00"
        in printed
    )
    assert printed[-1] == (
        "over spans: AUPR 66.67, precision not reached at 80 % recall, precision not reached at "
        "90 % recall (highest recall 66.67)"
    )


def test_an_audit_of_distinct_spans_without_golds_says_only_how_many_rows_it_has():
    about = {**ABOUT, "configuration": {**ABOUT["configuration"], "distinct": True}}
    report = audit_report(Totals(), about)
    assert report["several_answers"] == {"rows": 0, "rows_with_several_places": 0, "places": 0}
    assert "Best F1 over spans" not in audit_page(report, {}, about).decode()

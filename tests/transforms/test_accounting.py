"""What totals say: in the manifest of each stage, in audit.json and in the report, the same."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.transforms.fakes import claimed
from tests.transforms.report.samples import ABOUT
from transforms.accounting import StageOutput
from transforms.merge_receipts import Totals
from transforms.write_audit import write_audit
from transforms.write_manifest import write_manifests


@pytest.mark.parametrize(("unknown", "warned"), [(0, False), (50, False), (51, True), (1000, True)])
def test_much_text_that_the_tokenizer_does_not_know_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, unknown: int, warned: bool
):
    outputs = (StageOutput(claimed(tmp_path / "audit", "audit"), ABOUT), StageOutput(claimed(tmp_path), ABOUT))
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
        assert f"{unknown / 10:.1f} % of the contexts' characters are in unknown tokens" in caplog.text
        assert f"{unknown / 10:.1f} % of the contexts" in page

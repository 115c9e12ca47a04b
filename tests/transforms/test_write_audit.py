"""WriteAudit: audit.json, the report and the files for relabelling."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from tests.transforms.fakes import claimed
from tests.transforms.report.samples import ABOUT
from transforms.accounting import StageOutput
from transforms.merge_receipts import Totals
from transforms.write_audit import write_audit


def test_its_files_are_written_and_the_totals_handed_on(tmp_path: Path):
    audit = StageOutput(claimed(tmp_path, "audit"), {**ABOUT, "who": "größe"})
    totals = {"audit": Totals(counts=Counter(rows=2, scored=2)), "annotate": Totals()}
    assert write_audit(totals, audit) is totals
    assert json.loads((tmp_path / "audit.json").read_text("utf-8"))["rows"]["planned"] == 2
    assert b"2 examples" in (tmp_path / "report.html").read_bytes()
    assert (tmp_path / "relabel.csv").read_bytes().startswith(b'\xef\xbb\xbf"id"')
    assert json.loads((tmp_path / "relabel.json").read_bytes()) == []
    assert not (tmp_path / "manifest.json").exists(), "the manifest comes last"


def test_what_people_have_filled_in_is_kept(tmp_path: Path):
    audit = StageOutput(claimed(tmp_path, "audit"), ABOUT)
    totals = {"audit": Totals(counts=Counter(rows=2, scored=2))}
    filled = {
        "relabel.csv": b"id,decision\n1,gold\n",
        "relabel.json": b'[{"annotations": [{"result": []}], "data": {"id": "1"}}]',
    }
    for name, content in filled.items():
        (tmp_path / name).write_bytes(content)
    write_audit(totals, audit)
    assert {name: (tmp_path / name).read_bytes() for name in filled} == filled
    assert (tmp_path / "report.html").exists()

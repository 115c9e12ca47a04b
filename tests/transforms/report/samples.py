"""An audit and its examples with everything that a page must survive."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from model.audit.statistics import Statistics
from tests.model.audit.test_statistics import audit_table, measured
from transforms.merge_receipts import Totals
from transforms.read_examples import Example, RowPlace
from transforms.write_audit import audit_report

SCRIPT = (
    "</script><script>document.title = 'run'</script><img src=x onerror=\"document.title='run'\">"
)

PASSAGES = {
    "latin": (
        "Who lit the lamp?",
        "At dusk the keeper Ada lit the lamp, and Otto wound the clock.",
        "Ada",
        "Otto",
    ),
    "arabic": (
        "من أشعل المصباح؟",
        "عند الغروب أشعلت سلمى المصباح، ثم أدار عمر الساعة.",
        "سلمى",
        "عمر",
    ),
    "chinese": (
        "谁点亮了灯？",
        "黄昏时分，守塔人小林点亮了灯🌊，老王给钟上了发条。",
        "小林",
        "老王",
    ),
    "script": (f"Who wrote {SCRIPT}?", f"Ada wrote {SCRIPT} and Otto read it.", "Ada", "Otto"),
    "overlap": (
        "When?",
        "It was in the early spring of 1871, they say.",
        "spring of 1871",
        "early spring",
    ),
}
"""Name -> question, context, gold, prediction."""

CONFIGURATION = {
    "model_digest": "0" * 64,
    "null": True,
    "link": "softmax",
    "temperature": 1.0,
    "corrections": None,
}
ABOUT = {"model": "bundled", "null_trained": True, "input_files": 1, "configuration": CONFIGURATION}


def entry(name: str, row: int, doubt: str = "elsewhere") -> dict[str, Any]:
    question, context, gold, prediction = PASSAGES[name]
    return {
        "id": name,
        "path": "/in/a.parquet",
        "row": row,
        "question": question,
        "gold": [gold],
        "gold_start": context.index(gold),
        "gold_end": context.index(gold) + len(gold),
        "gold_probability": 0.001,
        "prediction": prediction,
        "prediction_start": context.index(prediction),
        "prediction_end": context.index(prediction) + len(prediction),
        "probability": 0.9,
        "null_probability": 0.05,
        "nll": 9.0 - row,
        "nll_start": 5.0,
        "nll_end": 4.0 - row,
        "f1": 0.0,
        "label_error": 6.0 - row,
        "label_error_reason": doubt,
        "likely_tokens": likely_tokens(name),
    }


def likely_tokens(name: str) -> list[list[float | None]]:
    """Return tokens of one character: the gold starts with 0.25, the prediction with 0.75."""
    _, context, gold, prediction = PASSAGES[name]
    found: dict[int, list[float | None]] = {}
    for text, share in ((gold, 0.25), (prediction, 0.75)):
        start = context.index(text)
        found.setdefault(start, [None, None])[0] = share
        found.setdefault(start + len(text) - 1, [None, None])[1] = share
    return [[place, place + 1, *found[place]] for place in sorted(found)]


def sample_audit(rows: int = 200) -> tuple[dict[str, Any], dict[RowPlace, Example]]:
    """Return `audit.json` of random rows, with the examples above in both lists."""
    table: pa.Table = audit_table(rows)
    statistics: Statistics = measured(
        table, [f"book {row % 3}" if row % 7 else SCRIPT for row in range(rows)]
    )
    totals = Totals(statistics=statistics)
    for status in ("scored", "null_scored", "unreachable", "rejected"):
        totals.counts[status] = table["status"].to_pylist().count(status)
    totals.counts["rows"] = rows
    totals.reasons.update({"gold_misaligned": totals.counts["rejected"]})
    audit = audit_report(totals, ABOUT)
    audit["highest_loss"] = [entry(name, row) for row, name in enumerate(PASSAGES)]
    audit["suspected_label_errors"] = [
        *audit["highest_loss"][:4],
        {**entry("overlap", 4), "label_error_reason": "other_borders"},
    ]
    return audit, {
        ("/in/a.parquet", row): Example(*texts[:2]) for row, texts in enumerate(PASSAGES.values())
    }

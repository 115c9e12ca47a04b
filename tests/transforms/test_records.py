"""Records: a receipt survives the metadata of a part."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np

from model.audit.slice_figures import Slice
from model.audit.statistics import Ranking, Statistics
from transforms.records import Receipt

_SLICE = Slice(rows=2, right=1, graded=2, f1=1.5)
_SLICE.losses["nll"].add(np.array([0.0, 0.1, 40.0]))
_SLICE.calibration.add(np.array([0.25, 0.75]), np.array([0.0, 1.0]))

RECEIPT = Receipt(
    stage="audit",
    part="p",
    counts={"rows": 2},
    corrected=("a",),
    statistics=Statistics(
        everything=_SLICE,
        slices={"by": {"ä": Slice(rows=1)}},
        grid=Counter({(0, 3): 2}),
        worst=Ranking(
            1, [(-1.5, "file", 3, {"path": "file", "row": 3, "likely_tokens": [[0, 2, 0.5, None]]})]
        ),
    ),
)


def test_a_receipt_is_what_its_json_says():
    for receipt in (RECEIPT, Receipt(part="p")):
        assert Receipt.from_json(json.loads(json.dumps(receipt.to_json()))) == receipt


def test_a_receipt_of_another_version_is_read():
    values = RECEIPT.to_json()
    assert Receipt.from_json(values | {"of_a_newer_version": 1}) == RECEIPT
    older = {name: value for name, value in values.items() if name not in ("corrected", "retries")}
    assert Receipt.from_json(older) == replace(RECEIPT, corrected=())

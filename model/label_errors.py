"""Suspected label errors: which golds the model contradicts, how strongly, and in what.

The score of a row, in nats:

    label_error = max(0, min over golds of max(nll_start, nll_end) + log(P(decision)) / 2)

and 0 where the model's decision is one of the golds. The worse of the two ends counts, because a gold with one right end is
the commonest error and a sum lets the right end excuse the wrong one; the best of several golds counts, because one gold
that the model agrees with is enough; and a model that hardly believes its own answer is weak evidence against a gold.
`docs/label_errors.md` has the precision of it, measured.
"""

from __future__ import annotations

import numpy as np

from model.golds import Golds
from model.losses import PassageLosses
from model.spans import PassageSpans


def label_errors(
    golds: Golds, losses: PassageLosses, spans: PassageSpans, row_pair: np.ndarray, no_answer: np.ndarray
) -> tuple[np.ndarray, list[str | None]]:
    """The score of every row, float64 [rows] (nan where a row has no loss), and in what the model contradicts it.

    row_pair int64 [rows], -1 for a rejected row; no_answer bool [pairs], the model's decision.

    Reasons: golds_disagree (two golds share no token), no_answer (a gold, but the model finds none), answerable (no gold, but
    the model finds one), other_borders (its answer shares tokens with a gold), elsewhere (it shares none); None where the
    score is 0.
    """
    score = np.full(len(row_pair), np.nan)
    reasons: list[str | None] = [None] * len(row_pair)
    worse_end = losses.nll.max(0)
    null_worse_end = losses.null_nll.max(0)
    for row in np.flatnonzero(row_pair >= 0).tolist():
        if row in golds.problems:
            continue
        pair, mine = row_pair[row], golds.of_row[row]
        nothing = bool(no_answer[pair])
        first, last = int(spans.start[pair, 0]), int(spans.end[pair, 0])
        if len(mine):
            loss = worse_end[mine].min()
            agrees = not nothing and bool(((golds.first[mine] == first) & (golds.last[mine] == last)).any())
            shares = bool(((golds.first[mine] <= last) & (golds.last[mine] >= first)).any())
        else:
            loss, agrees, shares = null_worse_end[pair], nothing, False
        if not np.isfinite(loss):
            continue
        certainty = spans.null_probability[pair] if nothing else spans.probability[pair, 0]
        with np.errstate(divide="ignore"):
            score[row] = 0.0 if agrees else max(0.0, loss + np.log(certainty) / 2)
        if score[row] > 0:
            apart = len(mine) > 1 and golds.first[mine].max() > golds.last[mine].min()
            if not len(mine):
                reasons[row] = "answerable"
            elif apart:
                reasons[row] = "golds_disagree"
            elif nothing:
                reasons[row] = "no_answer"
            else:
                reasons[row] = "other_borders" if shares else "elsewhere"
    return score, reasons

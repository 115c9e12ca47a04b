"""Suspected label errors: which golds the model contradicts, how strongly, and how.

The score of a row, in nats:

    label_error = max(0, min over golds of max(nll_start, nll_end) + log(P(decision)) / 2)

and 0 where the model's decision is one of the golds. The larger loss of the two ends counts,
because golds with one right end are the most common error and in a sum the right end would excuse
the wrong one. The best of several golds counts, because agreement with one is enough. The last term
lowers the score of a model that hardly believes its own answer. `docs/label_errors.md` reports the
measured precision.
"""

from __future__ import annotations

import numpy as np

from model.audit.golds import Golds
from model.audit.losses import PassageLosses
from model.reading.posterior import PassageSpans


def label_errors(
    golds: Golds,
    losses: PassageLosses,
    spans: PassageSpans,
    row_pair: np.ndarray,
    no_answer: np.ndarray,
) -> tuple[np.ndarray, list[str | None]]:
    """Return score and reason of every row, [rows]; the score is float64, nan without a loss.

    row_pair   int64 [rows], the pair that each row asks; -1 for none
    no_answer  bool [pairs], whether the model decides for no answer

    Reasons, None where the score is 0 or nan:

    answerable      there is no gold, but the model finds an answer
    golds_disagree  two golds share no token
    no_answer       there is a gold, but the model finds no answer
    other_borders   the model's answer shares tokens with a gold
    elsewhere       the model's answer shares no token with a gold
    """
    pair, known = np.maximum(row_pair, 0), row_pair >= 0
    known[list(golds.problems)] = False
    nothing = no_answer[pair]
    loss, agrees, shares, apart = _compare_with_golds(golds, losses, spans, pair, nothing)

    certainty = np.where(nothing, spans.null_probability[pair], spans.probability[pair, 0])
    with np.errstate(divide="ignore", invalid="ignore"):
        doubt = np.fmax(0.0, loss + np.log(certainty) / 2)
    score = np.where(known & np.isfinite(loss), np.where(agrees, 0.0, doubt), np.nan)
    cases = {
        "answerable": golds.of_row.lengths == 0,
        "golds_disagree": apart,
        "no_answer": nothing,
        "other_borders": shares,
    }
    reasons = np.select(list(cases.values()), list(cases), default="elsewhere").tolist()
    return score, [
        reason if value > 0 else None for reason, value in zip(reasons, score.tolist(), strict=True)
    ]


def _compare_with_golds(
    golds: Golds, losses: PassageLosses, spans: PassageSpans, pair: np.ndarray, nothing: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Compare the model's answer to each row with its golds.

    pair, nothing  [rows], the pair of each row, and whether the model finds no answer

    Returns the least loss of a gold's worse end, float64; and, as bool, whether the model agrees
    with the golds, whether its answer shares tokens with one, and whether two golds share none.
    """
    answerable = golds.of_row.lengths > 0
    loss = losses.null_nll.max(0)[pair]
    agrees, shares = nothing & ~answerable, np.zeros(len(pair), bool)
    apart = np.zeros(len(pair), bool)
    if not answerable.any():
        return loss, agrees, shares, apart
    mine, begin = golds.of_row.values, golds.of_row.bounds[:-1][answerable]
    first, last = golds.first[mine], golds.last[mine]
    row = np.repeat(np.arange(len(pair)), golds.of_row.lengths)
    start, end = spans.start[pair, 0][row], spans.end[pair, 0][row]
    loss[answerable] = np.minimum.reduceat(losses.nll.max(0)[mine], begin)
    same = (first == start) & (last == end) & ~nothing[row]
    agrees[answerable] = np.logical_or.reduceat(same, begin)
    shares[answerable] = np.logical_or.reduceat((first <= end) & (last >= start), begin)
    # Two golds share no token iff the last of all first tokens comes after the first of all last
    # tokens.
    latest, earliest = np.maximum.reduceat(first, begin), np.minimum.reduceat(last, begin)
    apart[answerable] = latest > earliest
    return loss, agrees, shares, apart

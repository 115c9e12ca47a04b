"""From golds to rows: each row's losses, status and reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from model.audit.golds import Golds
from model.audit.losses import PassageLosses


@dataclass(frozen=True, slots=True)
class RowLosses:
    """Losses and counts of every row, [rows], nan (or 0) where undefined.

    nll, min_nll, marginal, native, tokenwise and native_tokenwise are [2, rows]: start and end.

    nll, tokenwise          the first gold's, over the passage
    min_nll, min_tokenwise  of the gold with the least sum
    marginal_joint          over all distinct golds
    marginal                over the distinct starts, and over the distinct ends
    native*                 the first gold's, mean over windows
    joint                   the first gold's, nan where it is not a valid span
    null_window             of the null target, in the windows without the first gold
    whole, partly           windows that hold the first gold whole, or part of it
    first_gold              which gold is the row's first, -1 for none
    """

    nll: np.ndarray
    min_nll: np.ndarray
    marginal_joint: np.ndarray
    marginal: np.ndarray
    native: np.ndarray
    tokenwise: np.ndarray
    min_tokenwise: np.ndarray
    native_tokenwise: np.ndarray
    joint: np.ndarray
    null_window: np.ndarray
    whole: np.ndarray
    partly: np.ndarray
    first_gold: np.ndarray


def row_losses(golds: Golds, losses: PassageLosses, row_pair: np.ndarray) -> RowLosses:
    """Return the losses of rows from those of golds. A row without golds has the null target."""
    # Find the first gold of every row that has one. Rows of a pair without golds are nulls.
    rows = len(row_pair)
    counts = golds.of_row.lengths
    answered = np.flatnonzero(counts > 0)
    first_gold = np.full(rows, -1, np.int64)
    first_gold[answered] = golds.of_row.values[golds.of_row.bounds[answered]]
    pair = np.maximum(row_pair, 0)
    nulls = (counts == 0) & (row_pair >= 0)

    def of_first(per_gold: np.ndarray, per_pair: np.ndarray | None = None) -> np.ndarray:
        result = np.full((*per_gold.shape[:-1], rows), np.nan)
        result[..., answered] = per_gold[..., first_gold[answered]]
        if per_pair is not None:
            result[..., nulls] = per_pair[..., pair[nulls]]
        return result

    # Without several golds, the least loss and the marginals are the first gold's too.
    nll = of_first(losses.nll, losses.null_nll)
    tokenwise = of_first(losses.tokenwise, losses.null_tokenwise)
    min_nll, min_tokenwise, marginal_joint, marginal = (
        nll.copy(),
        tokenwise.sum(0),
        nll.sum(0),
        nll.copy(),
    )
    # Several golds: the least loss of them, and marginals that count each distinct token once.
    if len(answered):
        flat, at = golds.of_row.values, golds.of_row.bounds[answered]
        row = np.repeat(np.arange(rows), counts)
        totals = losses.nll.sum(0)[flat]
        least = np.lexsort((np.arange(len(flat)), totals, row))[at]
        min_nll[:, answered] = losses.nll[:, flat[least]]
        min_tokenwise[answered] = np.minimum.reduceat(losses.tokenwise.sum(0)[flat], at)
        marginal_joint[answered] = -np.logaddexp.reduceat(-totals, at)
        # Golds may share a start or an end, which counts once in that side's marginal.
        for side, token in enumerate((golds.first, golds.last)):
            distinct = np.sort(
                np.unique(np.stack([row, token[flat]]), axis=1, return_index=True)[1]
            )
            begin = np.searchsorted(row[distinct], answered)
            marginal[side, answered] = -np.logaddexp.reduceat(
                -losses.nll[side, flat[distinct]], begin
            )
    # What does not depend on the other golds is the first gold's.
    return RowLosses(
        nll=nll,
        min_nll=min_nll,
        marginal_joint=marginal_joint,
        marginal=marginal,
        native=of_first(losses.native, losses.null_native),
        tokenwise=tokenwise,
        min_tokenwise=min_tokenwise,
        native_tokenwise=of_first(losses.native_tokenwise),
        joint=of_first(losses.joint, losses.null_joint),
        null_window=of_first(losses.null_window),
        whole=np.nan_to_num(of_first(losses.whole)).astype(np.int64),
        partly=np.nan_to_num(of_first(losses.partly)).astype(np.int64),
        first_gold=first_gold,
    )


def statuses(
    reasons: Sequence[str | None], rows: RowLosses, golds: Golds, null: bool, too_long: np.ndarray
) -> tuple[list[str], list[str | None]]:
    """Return the status and the reason of every row.

    rejected     `reasons` of earlier steps, else those of unusable golds
    null_scored  no gold, and the null option is on
    unreachable  `no_null_option`: no gold, and the null option is off; `gold_in_no_window`: no
                 window holds the first gold whole, although its passage loss is defined
    scored       the rest; reason `gold_too_long` if the first gold has more tokens than
                 max_answer_length, so that it is never decoded
    """
    status: list[str] = []
    reason: list[str | None] = []
    for row, earlier in enumerate(reasons):
        if earlier is not None or row in golds.problems:
            found: tuple[str, str | None] = "rejected", earlier or golds.problems[row][0]
        elif rows.first_gold[row] < 0:
            found = ("null_scored", None) if null else ("unreachable", "no_null_option")
        elif rows.whole[row] == 0:
            found = "unreachable", "gold_in_no_window"
        else:
            found = "scored", "gold_too_long" if too_long[row] else None
        status.append(found[0])
        reason.append(found[1])
    return status, reason

"""What the marks of reviewers say about a run, as JSON and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from pipeline.review.estimate import CONFIDENCE, Marks, estimate
from pipeline.review.files import ReviewSet
from pipeline.review.strata import Stratum


@dataclass(frozen=True)
class Review:
    """A reviewed set.

    marks    of each stratum
    unsure   drawn answers of each stratum that are marked unsure
    missing  drawn answers without a mark
    """

    drawn: ReviewSet
    marks: tuple[Marks, ...]
    unsure: tuple[int, ...]
    missing: int

    @classmethod
    def of(cls, drawn: ReviewSet, marks: Mapping[int, str]) -> Self:
        """Make a review of the marks by number of the answer, as `read_marks` returns them.

        Raises ValueError for a stratum without an answer that is marked yes or no.
        """
        counts = Counter(
            (stratum, marks.get(number, "missing"))
            for number, stratum in enumerate(drawn.stratum, 1)
        )
        by_stratum = []
        for number, stratum in enumerate(drawn.strata):
            right, wrong = counts[number, "yes"], counts[number, "no"]
            if not right + wrong:
                raise ValueError(
                    f"no answer of stratum {number + 1} (probability {_range(stratum)}, "
                    f"{stratum.answers} answers) is marked yes or no: review at least one"
                )
            by_stratum.append(Marks(stratum.answers, right, wrong))
        unsure = [counts[number, "unsure"] for number in range(len(by_stratum))]
        return cls(drawn, tuple(by_stratum), tuple(unsure), len(drawn.stratum) - len(marks))

    @property
    def precisions_of_unsure(self) -> tuple[float, float]:
        """Return the precision if all answers marked unsure were wrong, and if they were right."""
        pairs = list(zip(self.marks, self.unsure, strict=True))
        wrong = [replace(each, wrong=each.wrong + count) for each, count in pairs]
        right = [replace(each, right=each.right + count) for each, count in pairs]
        return estimate(wrong).precision, estimate(right).precision

    @property
    def answers(self) -> int:
        """Return the number of answers of the run."""
        return sum(each.answers for each in self.marks)

    @property
    def reviewed(self) -> int:
        """Return the number of drawn answers that are marked yes or no."""
        return sum(each.reviewed for each in self.marks)

    def as_json(self) -> dict[str, Any]:
        """Return the estimate for programs."""
        low, high = self.precisions_of_unsure
        return {
            **asdict(estimate(self.marks)),
            "confidence": CONFIDENCE,
            "answers": self.answers,
            "reviewed": self.reviewed,
            "unsure": sum(self.unsure),
            "missing": self.missing,
            "precision_if_unsure_are_wrong": low,
            "precision_if_unsure_are_right": high,
            "run": self.drawn.identity.run,
            "set": self.drawn.name,
            "strata": [
                {**asdict(stratum), "right": marks.right, "wrong": marks.wrong}
                for stratum, marks in zip(self.drawn.strata, self.marks, strict=True)
            ],
        }

    def in_words(self) -> str:
        """Return the estimate for people, with a table of the strata."""
        result = estimate(self.marks)
        answers, reviewed = self.answers, self.reviewed
        lines = [
            f"precision {result.precision:.3f}, {CONFIDENCE:.0%} interval {result.low:.3f} to "
            f"{result.high:.3f}",
            f"about {result.precision * answers:,.0f} of {answers:,} answers are right "
            f"({result.low * answers:,.0f} to {result.high * answers:,.0f})",
            f"{reviewed} of {len(self.drawn.stratum)} drawn answers are marked yes or no, "
            f"{sum(self.unsure)} unsure, {self.missing} missing",
        ]
        if any(self.unsure):
            low, high = self.precisions_of_unsure
            lines.append(f"precision {low:.3f} if all unsure are wrong, {high:.3f} if right")
        lines += [
            "",
            f"{'probability':>14} {'answers':>9} {'marked':>7} {'right':>6} {'share':>6} "
            f"{'mean p':>7}",
        ]
        for stratum, marks in zip(self.drawn.strata, self.marks, strict=True):
            lines.append(
                f"{_range(stratum):>14} {marks.answers:>9} {marks.reviewed:>7} {marks.right:>6} "
                f"{marks.right / marks.reviewed:>6.2f} {stratum.mean_probability:>7.2f}"
            )
        return "\n".join(lines)


def _range(stratum: Stratum) -> str:
    """Return the range of probability of a stratum."""
    return f"{stratum.low:.2f} to {stratum.high:.2f}"

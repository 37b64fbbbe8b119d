"""Right and wrong decisions, counted, and what few of them are worth."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Counts:
    """Right and wrong decisions."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """Share of the triggered that should be; NaN where nothing triggered."""
        triggered = self.true_positives + self.false_positives
        return self.true_positives / triggered if triggered else math.nan

    @property
    def recall(self) -> float:
        """Share of those that should trigger that do; NaN where there are none."""
        positives = self.true_positives + self.false_negatives
        return self.true_positives / positives if positives else math.nan

    def __str__(self) -> str:
        tp, fp, fn = self.true_positives, self.false_positives, self.false_negatives
        return f"precision {share(tp, tp + fp)}, recall {share(tp, tp + fn)}"

    def to_dict(self) -> dict[str, float | None]:
        """Counts and shares, for JSON; a share of nothing is None."""
        shares = {"precision": self.precision, "recall": self.recall}
        return {**asdict(self), **{name: None if math.isnan(x) else x for name, x in shares.items()}}


def share(part: int, whole: int) -> str:
    """A share with its counts and its 95 % interval (Wilson 1927), which few examples make wide."""
    if not whole:
        return f"unknown ({part} of {whole})"
    z, p = 1.96, part / whole
    centre, shrink = p + z * z / (2 * whole), 1 + z * z / whole
    half = z * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole))
    low, high = (centre - half) / shrink, (centre + half) / shrink
    return f"{p:.3f} ({part} of {whole}; 95 % interval {max(low, 0.0):.2f} to {min(high, 1.0):.2f})"

"""Sentences for recalls that are low, each with the page that says what the reason may be."""

from __future__ import annotations

from collections.abc import Mapping

from datasets import Dataset

from ..data.shared_captions import count_shared

PAGE = "docs/low-recall.md"
NEAR_CHANCE = 0.05  # of the way from chance to all found
FAR_BELOW = 0.9  # of what the heads had before the first step


def notes_of_chance(
    metrics: Mapping[str, float],
    chance: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
) -> list[str]:
    """That recalls are near chance, where they are; of one split, under the names of `retrieval_metrics`."""
    rsum, by_chance = metrics["rsum"], chance["rsum"]
    lowest = intervals["rsum"][0] if intervals else rsum
    if lowest > by_chance + NEAR_CHANCE * (600 - by_chance):
        return []
    return [f"This is near chance (rsum {rsum:.1f}, by chance {by_chance:.1f}): see {PAGE}."]


def notes_of_start(rsum: float, start: float) -> list[str]:
    """That the sum of recalls is far below what it was before the first step, on the same split: below the closed
    form's, where the heads start at it."""
    if rsum >= FAR_BELOW * start:
        return []
    return [
        f"Before the first step rsum was {start:.1f}, now {rsum:.1f}: training made it worse, see {PAGE}."
    ]


def notes_of_shared_captions(dataset: Dataset) -> list[str]:
    """That equal captions of several images tie, which the papers' protocol counts as misses, where there are any."""
    found = count_shared({"measured": dataset})
    if not (shared := found["captions of several images"]):
        return []
    return [
        f"{shared:,} of {found['captions']:,} different captions stand at several images, and ties count as misses: "
        f"`hf-customclip evaluate --shared-captions` counts them as right, see {PAGE}."
    ]

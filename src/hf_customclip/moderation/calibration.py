"""Thresholds from labelled examples, for a wanted precision or recall.

An item can trigger a category by several parts (image, text, ...), each with a threshold of its own. They are
moved together: each so that alone it would raise the same number of false alarms. So one number is chosen, the
false alarms `k`, and what is measured is the decision itself, "any part triggers".
"""

from __future__ import annotations

import random
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .counts import Counts

FOLDS = 10
SEED = 0
JUST_ABOVE = 1e-3  # how far above the highest negative, where no score lies higher
HIGHEST, SAME = 1.0, 1e-5  # cosines end here, and so near to it two inputs are the same, up to rounding
USEFUL = 0.5  # a precision below which most of what triggers is harmless
Scores = Mapping[str, np.ndarray]  # for each part `[items]`, -inf where an item lacks the part


@dataclass(frozen=True)
class CategoryCalibration:
    """How one category was calibrated.

    Args:
        category: its name.
        thresholds: of the parts that the examples have.
        seen: decisions on the very examples that the thresholds were chosen on: optimistic.
        held_out: decisions by cross-validation, each item judged with thresholds chosen without its group.
        curve: `[steps, 3]`: false alarms allowed for each part, precision, recall; precision is NaN where
            nothing triggers.
        notes: what a reader of the numbers must know, each a sentence.
    """

    category: str
    thresholds: dict[str, float]
    seen: Counts
    held_out: Counts
    curve: np.ndarray
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """New thresholds, and what they were measured to do.

    Args:
        target: "precision" or "recall".
        value: the wanted one.
        categories: those that had positive examples.
        skipped: those that had none, whose thresholds stay as they were.
    """

    target: str
    value: float
    categories: tuple[CategoryCalibration, ...]
    skipped: tuple[str, ...]

    @property
    def thresholds(self) -> dict[str, dict[str, float]]:
        """`{category: {part: threshold}}`, as `write_thresholds` takes them."""
        return {each.category: each.thresholds for each in self.categories}

    def __str__(self) -> str:
        lines = [f"wanted: {self.target} of at least {self.value:g}"]
        for each in self.categories:
            thresholds = ", ".join(f"{part} {number:.4f}" for part, number in each.thresholds.items())
            seen = each.seen
            positives = seen.true_positives + seen.false_negatives
            negatives = seen.false_positives + seen.true_negatives
            lines += [
                f"{each.category}: {positives} positive and {negatives} negative examples; {thresholds}",
                f"  on these examples  {each.seen}",
                f"  held out           {each.held_out}",
                *(f"  {note}" for note in each.notes),
            ]
        lines += [f"{name}: no positive examples, threshold unchanged" for name in self.skipped]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the curves, for JSON."""
        categories = {
            each.category: {
                "thresholds": each.thresholds,
                "seen": each.seen.to_dict(),
                "held_out": each.held_out.to_dict(),
                "notes": list(each.notes),
            }
            for each in self.categories
        }
        return {self.target: self.value, "categories": categories, "skipped": list(self.skipped)}

    def plot(self, file: str | Path) -> Path:
        """Draw precision against recall for each category, with the chosen points; needs Matplotlib."""
        from ..plotting import OperatingCurve, plot_precision_recall, save_figure

        curves = [
            OperatingCurve(
                f"{each.category} ({each.seen.true_positives + each.seen.false_negatives})",
                recall=each.curve[:, 2],
                precision=each.curve[:, 1],
                chosen=(each.seen.recall, each.seen.precision),
                held_out=(each.held_out.recall, each.held_out.precision),
            )
            for each in self.categories
        ]
        title = "Thresholds by labelled examples (how many)"
        return save_figure(plot_precision_recall(curves, self.target, self.value, title), file, dpi=150)


def calibrate(
    moderator: Any,
    images: Sequence[Any] | None,
    texts: Sequence[str | None] | None,
    labels: Sequence[Collection[str]],
    *,
    precision: float | None = None,
    recall: float | None = None,
    groups: Sequence[Hashable] | None = None,
    batch_size: int = 64,
) -> Calibration:
    """Choose each category's thresholds on labelled items.

    Precision depends on how many of the items are unwanted: take examples as they come in real use.

    Args:
        moderator: a `Moderator`; its policy's own thresholds only say which parts are judged, and may be missing
            (`Policy.from_file(file, calibrated=False)`).
        images, texts: as in `Moderator.check`, but as many as there are.
        labels: for each item the names of its categories; none for a harmless one.
        precision, recall: the wanted one, from 0 to 1; the other one then is made as high as it gets.
        groups: items of one group are near copies, and are held out together; by default each is its own.

    Raises:
        ValueError: not exactly one target, labels that the policy does not know, or a precision that no
            threshold reaches.
    """
    target, value = _target(precision, recall)
    categories = moderator.policy.categories
    known = {category.name for category in categories}
    for row, names in enumerate(labels):
        if unknown := sorted(set(names) - known):
            raise ValueError(
                f"Item {row + 1} is labelled {unknown[0]!r}, which the policy does not have; it has "
                f"{', '.join(sorted(known))}."
            )
    given = texts if images is None else images
    count = len(given) if given is not None else 0
    if not count or len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} items: give a label for every item.")
    scores = score_items(moderator, images, texts, batch_size)
    folds = _folds(range(count) if groups is None else groups)
    done, skipped = [], []
    for category in categories:
        positive = np.array([category.name in names for names in labels])
        if positive.any():
            usable, own = _without_own_examples(scores[category.name])
            found = calibrate_category(category.name, usable, positive, target, value, folds)
            done.append(replace(found, notes=(*own, *found.notes)))
        else:
            skipped.append(category.name)
    return Calibration(target, value, tuple(done), tuple(skipped))


def score_items(
    moderator: Any, images: Sequence[Any] | None, texts: Sequence[str | None] | None, batch_size: int = 64
) -> dict[str, dict[str, np.ndarray]]:
    """For each category and each part that some item has: the scores `[items]`, -inf where one lacks it."""
    from tqdm.auto import tqdm

    count = len(texts or ()) if images is None else len(images)
    scores: dict[str, dict[str, np.ndarray]] = {c.name: {} for c in moderator.policy.categories}
    for start in tqdm(range(0, count, batch_size), desc="score", disable=None, leave=False):
        batch = slice(start, start + batch_size)
        verdicts = moderator.check(images and images[batch], texts and texts[batch])
        for row, verdict in enumerate(verdicts, start):
            for finding in verdict.findings:
                for part, value in finding.scores.items():
                    column = scores[finding.category].setdefault(part, np.full(count, -np.inf))
                    column[row] = value
    return scores


def calibrate_category(
    name: str, scores: Scores, positive: np.ndarray, target: str, value: float, folds: np.ndarray
) -> CategoryCalibration:
    """Thresholds for one category; `positive` `[items]` says which items are of it."""
    curve = _curve(scores, positive)
    allowed = _choose(curve, target, value)
    if allowed is None:
        best = float(np.nanmax(curve[:, 1], initial=0.0))
        raise ValueError(
            f"No threshold of {name!r} has a precision of {value:g} on these examples; the highest is {best:.3f}. "
            "Ask for less, or improve its prompts and counter-prompts."
        )
    thresholds = _thresholds(scores, positive, allowed)
    triggered = _triggered(scores, thresholds)
    seen = _count(triggered, positive)
    held_out = _count(_cross_validated(scores, positive, target, value, folds), positive)
    notes = (*_notes_of_the_same(scores, positive, thresholds), *_notes_of_use(held_out))
    return CategoryCalibration(name, thresholds, seen, held_out, curve, notes)


def _without_own_examples(scores: Scores) -> tuple[Scores, list[str]]:
    """Without the likeness of the policy's example images to themselves, and a sentence about them."""
    own = np.flatnonzero(scores.get("example", np.empty(0)) > HIGHEST - SAME)
    if not len(own):
        return scores, []
    others = scores["example"].copy()
    others[own] = -np.inf
    kept = {
        part: values for part, values in {**scores, "example": others}.items() if np.isfinite(values).any()
    }
    rows = ", ".join(str(row + 1) for row in own[:5]) + (", …" if len(own) > 5 else "")
    return kept, [
        f"{len(own)} of these (row {rows}) are example images of the policy itself: that they are like themselves says "
        "nothing, and is not counted"
    ]


def _notes_of_the_same(scores: Scores, positive: np.ndarray, thresholds: Mapping[str, float]) -> list[str]:
    return [
        f"{int((same & ~positive).sum())} harmless ones are a prompt or an example to the letter (cosine 1), and no "
        f"threshold of {part!r} holds them back: is the label right?"
        for part, values in scores.items()
        if (same := values >= HIGHEST - SAME)[~positive].any() and thresholds[part] == HIGHEST
    ]


def _notes_of_use(held_out: Counts) -> list[str]:
    """Whether thresholds are worth anything, by decisions on examples that they were not chosen on."""
    triggered = held_out.true_positives + held_out.false_positives
    if not held_out.true_positives:
        return ["WARNING: held out, not one was found: these thresholds are of no use"]
    if held_out.precision >= USEFUL:
        return []
    total = triggered + held_out.false_negatives + held_out.true_negatives
    share = (held_out.true_positives + held_out.false_negatives) / total
    return [
        f"WARNING: of {triggered} that trigger, held out, {held_out.false_positives} are harmless (a precision of "
        f"{held_out.precision:.2f}; by chance {share:.2f}): ask for less, or improve prompts and counter-prompts"
    ]


def _curve(scores: Scores, positive: np.ndarray) -> np.ndarray:
    """`[negatives + 1, 3]`: for each number of false alarms allowed for each part, precision and recall."""
    needed = np.full(len(positive), np.inf)  # the fewest false alarms with which an item triggers
    for values in scores.values():
        negatives = np.sort(values[~positive & np.isfinite(values)])
        alarms = len(negatives) - np.searchsorted(negatives, values, side="left")
        needed = np.minimum(needed, np.where(np.isfinite(values), alarms, np.inf))
    allowed = np.arange(int((~positive).sum()) + 1)
    hits = np.searchsorted(np.sort(needed[positive]), allowed, side="right")
    alarms = np.searchsorted(np.sort(needed[~positive]), allowed, side="right")
    with np.errstate(invalid="ignore"):
        return np.stack([allowed, hits / (hits + alarms), hits / positive.sum()], axis=1)


def _choose(curve: np.ndarray, target: str, value: float) -> int | None:
    """The false alarms to allow: reaching the target, with the most of the other measure, then the fewest."""
    precision, recall = np.nan_to_num(curve[:, 1]), curve[:, 2]
    wanted, other = (precision, recall) if target == "precision" else (recall, precision)
    reaching = (wanted >= value - 1e-9) & (recall > 0)
    if not reaching.any():
        return None
    return int(np.flatnonzero(reaching & (other >= other[reaching].max()))[0])


def _thresholds(scores: Scores, positive: np.ndarray, allowed: int) -> dict[str, float]:
    """For each part halfway between the best negative that must not trigger and the next score above it."""
    thresholds = {}
    for part, values in scores.items():
        finite = values[np.isfinite(values)]
        negatives = np.sort(values[~positive & np.isfinite(values)])[::-1]
        if allowed >= len(negatives):
            thresholds[part] = float(finite.min())  # even the lowest may trigger
            continue
        barred = float(negatives[allowed])
        above = finite[finite > barred]
        upper = min(HIGHEST, float(above.min()) if len(above) else barred + 2 * JUST_ABOVE)
        middle = round((barred + upper) / 2, 6)
        thresholds[part] = middle if barred < middle <= upper else upper
    return thresholds


def _triggered(scores: Scores, thresholds: Mapping[str, float]) -> np.ndarray:
    return np.any([values >= thresholds[part] for part, values in scores.items()], axis=0)


def _cross_validated(
    scores: Scores, positive: np.ndarray, target: str, value: float, folds: np.ndarray
) -> np.ndarray:
    """Each item judged with thresholds that were chosen without its fold; what cannot be judged is allowed."""
    triggered = np.zeros(len(positive), dtype=bool)
    for fold in np.unique(folds):
        held = folds == fold
        rest = {part: values[~held] for part, values in scores.items()}
        rest = {part: values for part, values in rest.items() if np.isfinite(values).any()}
        if not rest or not positive[~held].any():
            continue
        allowed = _choose(_curve(rest, positive[~held]), target, value)
        if allowed is not None:
            thresholds = _thresholds(rest, positive[~held], allowed)
            own = {part: values[held] for part, values in scores.items() if part in rest}
            triggered[held] = _triggered(own, thresholds)
    return triggered


def _folds(groups: Sequence[Hashable]) -> np.ndarray:
    """`[items]`: the fold of each, one for all items of a group, dealt out by a fixed seed."""
    names = sorted(set(groups), key=str)
    random.Random(SEED).shuffle(names)
    fold = {name: position % FOLDS for position, name in enumerate(names)}
    return np.array([fold[name] for name in groups])


def _count(triggered: np.ndarray, positive: np.ndarray) -> Counts:
    pairs = ((triggered, positive), (triggered, ~positive), (~triggered, positive), (~triggered, ~positive))
    return Counts(*(int((one & other).sum()) for one, other in pairs))


def _target(precision: float | None, recall: float | None) -> tuple[str, float]:
    if (precision is None) == (recall is None):
        raise ValueError("Give one target: either a precision or a recall.")
    target, value = ("precision", precision) if recall is None else ("recall", recall)
    if value is None or not 0 < value <= 1:
        raise ValueError(f"The wanted {target} is {value}; it must be above 0 and at most 1.")
    return target, value

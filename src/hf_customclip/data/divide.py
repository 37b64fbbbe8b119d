"""Dividing rows into splits, with every row either in one split or in the report."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from .part import Part, captions_per_row, texts
from .report import DataError, DataReport
from .splits import DEFAULT_FRACTION, DEFAULT_SEED, SeededSplit, SplitList, in_order

HELD_OUT = ("validation", "test")
Assignment = list[list[str | None]]  # a split for each row of each part


@dataclass(frozen=True)
class SplitWish:
    """What the user said about splits. A fraction left None is 0.05 where the data have no splits at all."""

    chosen: str | None = None
    listed: SplitList | None = None
    seed: int = DEFAULT_SEED
    validation_fraction: float | None = None
    test_fraction: float | None = None

    @property
    def explicit(self) -> bool:
        """Whether a draw was asked for."""
        return self.validation_fraction is not None or self.test_fraction is not None

    @property
    def draw(self) -> SeededSplit:
        """The draw for data that have no splits."""
        fractions = (self.validation_fraction, self.test_fraction)
        return SeededSplit(self.seed, *(DEFAULT_FRACTION if share is None else share for share in fractions))

    def draw_for(self, found: set[str], source: str) -> SeededSplit | None:
        """The draw to make given the splits found in the data, if any; see `load_image_text_dataset`."""
        if self.listed is not None:
            if self.explicit:
                raise DataError("A split list says which image is in which split; leave the fractions out.")
            return None
        if found <= {"train"} or ("train" not in found and self.explicit):
            return self.draw
        for name, fraction in zip(HELD_OUT, (self.validation_fraction, self.test_fraction), strict=True):
            if fraction and name in found:
                raise DataError(f"{source} has a {name} split of its own; leave {name}_fraction out.")
        if self.explicit:
            return SeededSplit(self.seed, self.validation_fraction or 0.0, self.test_fraction or 0.0)
        return None


def divide(parts: list[Part], wish: SplitWish, report: DataReport) -> DatasetDict:
    """Put every row into its split: by the split list, else as the data say, else by a seeded draw."""
    assigned = _assigned(parts, wish.listed)
    found = {name for names in assigned for name in names if name}
    if wish.listed and not found:
        raise DataError(f"No image of {report.source} is in the split list ({wish.listed.rule}).")
    draw = wish.draw_for(found, report.source)
    report.split_rule = wish.listed.rule if wish.listed else split_rule(found, draw)
    if draw:
        assigned = _drawn(parts, assigned, draw, {"train"} if "train" in found else found or {None})
    elif "train" not in found:
        tell_of_no_train(report, found, wish)
    return _select(parts, assigned, report)


def split_rule(found: set[str], draw: SeededSplit | None) -> str:
    """How the splits came about, in words."""
    own = f"as the data have them ({', '.join(in_order(found))})"
    if draw is None:
        return own
    return draw.rule if found <= {"train"} or "train" not in found else f"{own}; out of train, {draw.rule}"


def tell_of_no_train(report: DataReport, found: set[str], wish: SplitWish) -> None:
    """Say in one line that there is nothing to train on, since the tutorial trains on a split called test.

    Who has named another split knows what is in it, and finds this in the report alone.
    """
    names = ", ".join(in_order(found))
    note = (
        f"{report.source} has no train split, only {names}. For training, give the papers' split with "
        "karpathy_file=..., or draw one with test_fraction=0.05."
    )
    report.notes.append(note)
    if wish.chosen in (None, "train"):
        warnings.warn(note, UserWarning, stacklevel=4)


def _assigned(parts: list[Part], listed: SplitList | None) -> Assignment:
    if listed is None:
        return [part.splits for part in parts]
    return [
        [
            listed.find(name, image_id)
            for name, image_id in zip(part.names, texts(part.dataset, "image_id"), strict=True)
        ]
        for part in parts
    ]


def _drawn(
    parts: list[Part], assigned: Assignment, draw: SeededSplit, redrawn: Collection[str | None]
) -> Assignment:
    """The assignment with rows of the `redrawn` splits drawn anew, all parts together."""
    ids = [
        image_id
        for part, names in zip(parts, assigned, strict=True)
        for image_id, name in zip(texts(part.dataset, "image_id"), names, strict=True)
        if name in redrawn
    ]
    fresh = iter(draw.assign(ids))
    return [[next(fresh) if name in redrawn else name for name in names] for names in assigned]


def _select(parts: list[Part], assigned: Assignment, report: DataReport) -> DatasetDict:
    chosen: dict[str, list[Dataset]] = {}
    for part, names in zip(parts, assigned, strict=True):
        rows: dict[str | None, list[int]] = {}
        for row, name in enumerate(names):
            rows.setdefault(name, []).append(row)
        captions = captions_per_row(part.dataset) if None in rows else []
        for row in rows.pop(None, []):
            report.add("unlisted_image", part.names[row], images=1, captions=captions[row])
        for name, numbers in rows.items():
            chosen.setdefault(str(name), []).append(part.dataset.select(np.asarray(numbers)))
    return DatasetDict({name: concatenate_datasets(chosen[name]) for name in in_order(chosen)})

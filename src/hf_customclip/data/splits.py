"""Which image belongs to which split: the data's own word, a split list's, or a seeded draw by image.

Every row ends in one split or in a case of the report.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from datasets import Dataset, DatasetDict, IterableDatasetDict, concatenate_datasets

from .part import Part, captions_per_row, texts
from .report import Case, DataError

ORDER = ("train", "validation", "test")
ALIASES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),  # Karpathy's COCO trains on restval
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
HELD_OUT = ("validation", "test")
DEFAULT_SEED = 42
DEFAULT_FRACTION = 0.05
Assignment = list[list[str | None]]  # a split for each row of each part
Splits = TypeVar("Splits", DatasetDict, IterableDatasetDict)


def split_name(name: str) -> str:
    """A split's usual name: val and dev are validation, restval is train; other names stay, in lower case."""
    plain = name.strip().lower()
    return ALIASES.get(plain, plain)


def split_in_path(path: Path, root: Path) -> str | None:
    """The split that a file's name or its folders below `root` speak of ("captions_val2017.json"), if any."""
    parts = path.relative_to(root).parts if path.is_relative_to(root) else (path.name,)
    for part in reversed(parts):
        spelt = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", part)  # Flickr_8k.trainImages.txt
        words = {ALIASES.get(word) for word in re.findall(r"[a-z]+", spelt.lower())} - {None}
        if len(words) == 1:
            return words.pop()
    return None


def in_order(names: Iterable[str]) -> list[str]:
    """Split names, the usual three first."""
    names = list(names)
    return [name for name in ORDER if name in names] + sorted(set(names) - set(ORDER))


@dataclass(frozen=True)
class SplitList:
    """A list of which image is in which split, from files apart from the data."""

    rule: str
    split_of: Mapping[str, str]

    def find(self, *names: str | None) -> str | None:
        """The split of an image known by any of these names, or by the file name at the end of one."""
        for name in filter(None, names):
            split = self.split_of.get(name) or self.split_of.get(name.replace("\\", "/").rsplit("/", 1)[-1])
            if split:
                return split
        return None


@dataclass(frozen=True)
class SeededSplit:
    """A draw by image: each image's place is a hash of seed and id, so order and reruns change nothing.

    Captions of one image always land together, and images added later leave most others where they were.
    """

    seed: int = DEFAULT_SEED
    validation_fraction: float = DEFAULT_FRACTION
    test_fraction: float = DEFAULT_FRACTION
    by: str = "image"

    def __post_init__(self) -> None:
        fractions = (self.validation_fraction, self.test_fraction)
        if not all(0 <= fraction < 1 for fraction in fractions) or sum(fractions) >= 1:
            raise DataError(
                f"validation_fraction and test_fraction are each from 0 to below 1 and together below 1, "
                f"not {fractions[0]} and {fractions[1]}."
            )

    @property
    def rule(self) -> str:
        """The draw in words."""
        return (
            f"drawn here by {self.by} with seed {self.seed}: {self.validation_fraction:.4g} of the {self.by}s for "
            f"validation, {self.test_fraction:.4g} for test"
        )

    def place(self, image_id: str) -> float:
        """Where an image stands between 0 and 1."""
        digest = hashlib.blake2b(f"{self.seed}:{image_id}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def assign(self, image_ids: Sequence[str]) -> list[str]:
        """The split of each image, with exact shares; at least one image each once there are three."""
        ranked = sorted(set(image_ids), key=lambda image_id: (self.place(image_id), image_id))
        tests = _share(self.test_fraction, len(ranked))
        held_out = tests + _share(self.validation_fraction, len(ranked))
        split_of = {
            image_id: "test" if rank < tests else "validation" if rank < held_out else "train"
            for rank, image_id in enumerate(ranked)
        }
        return [split_of[image_id] for image_id in image_ids]

    def assign_one(self, image_id: str) -> str:
        """The split of an image whose fellows are unknown, as in a stream; shares hold on average."""
        place = self.place(image_id)
        if place < self.test_fraction:
            return "test"
        return "validation" if place < self.test_fraction + self.validation_fraction else "train"


def _share(fraction: float, total: int) -> int:
    return max(round(fraction * total), 1) if fraction and total >= len(ORDER) else 0


@dataclass(frozen=True)
class SplitWish:
    """What the user said about splits. A fraction left None is 0.05 where the data have no splits at all."""

    chosen: str | None = None
    listed: SplitList | None = None
    seed: int = DEFAULT_SEED
    validation_fraction: float | None = None
    test_fraction: float | None = None
    by: str = "image"

    @property
    def explicit(self) -> bool:
        """Whether a draw was asked for."""
        return self.validation_fraction is not None or self.test_fraction is not None

    @property
    def draw(self) -> SeededSplit:
        """The draw for data that have no splits."""
        fractions = (self.validation_fraction, self.test_fraction)
        validation, test = (DEFAULT_FRACTION if share is None else share for share in fractions)
        return SeededSplit(self.seed, validation, test, self.by)

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
            return SeededSplit(self.seed, self.validation_fraction or 0.0, self.test_fraction or 0.0, self.by)
        return None


@dataclass(frozen=True)
class Division(Generic[Splits]):
    """The splits, how they came about in words, and what is to be said of it."""

    splits: Splits
    rule: str
    notes: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)


def divide(parts: list[Part], wish: SplitWish, source: str) -> Division[DatasetDict]:
    """Put every row into its split: by the split list, else as the data say, else by a seeded draw."""
    assigned = _assigned(parts, wish.listed)
    found = {name for names in assigned for name in names if name}
    if wish.listed and not found:
        raise DataError(f"No image of {source} is in the split list ({wish.listed.rule}).")
    draw = wish.draw_for(found, source)
    notes = [] if draw else notes_of_no_train(source, found, wish)
    if draw:
        assigned = _drawn(parts, assigned, draw, {"train"} if "train" in found else found or {None})
    rule = wish.listed.rule if wish.listed else split_rule(found, draw)
    return Division(_select(parts, assigned), rule, notes, _unlisted(parts, assigned))


def split_rule(found: set[str], draw: SeededSplit | None) -> str:
    """How the splits came about, in words."""
    own = f"as the data have them ({', '.join(in_order(found))})"
    if draw is None:
        return own
    return draw.rule if found <= {"train"} or "train" not in found else f"{own}; out of train, {draw.rule}"


def notes_of_no_train(source: str, found: set[str], wish: SplitWish) -> list[str]:
    """One line, also as a warning, where there is nothing to train on: the tutorial trains on a split called test.

    Who has named another split knows what is in it, and finds this in the report alone.
    """
    if "train" in found:
        return []
    note = (
        f"{source} has no train split, only {', '.join(in_order(found))}. For training, give the papers' split "
        "with karpathy_file=..., or draw one with test_fraction=0.05."
    )
    if wish.chosen in (None, "train"):
        warnings.warn(note, UserWarning, stacklevel=5)
    return [note]


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
        for image_id, name in zip(texts(part.dataset, _drawn_by(part.dataset)), names, strict=True)
        if name in redrawn
    ]
    fresh = iter(draw.assign(ids))
    return [[next(fresh) if name in redrawn else name for name in names] for names in assigned]


def _drawn_by(dataset: Dataset) -> str:
    return "group_id" if "group_id" in dataset.column_names else "image_id"


def _unlisted(parts: list[Part], assigned: Assignment) -> list[Case]:
    return [
        Case("unlisted_image", name, images=1, captions=captions)
        for part, splits in zip(parts, assigned, strict=True)
        if None in splits
        for name, split, captions in zip(part.names, splits, captions_per_row(part.dataset), strict=True)
        if split is None
    ]


def _select(parts: list[Part], assigned: Assignment) -> DatasetDict:
    chosen: dict[str, list[Dataset]] = {}
    for part, names in zip(parts, assigned, strict=True):
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if name is not None:
                rows.setdefault(name, []).append(row)
        for name, numbers in rows.items():
            chosen.setdefault(name, []).append(part.dataset.select(np.asarray(numbers)))
    return DatasetDict({name: concatenate_datasets(chosen[name]) for name in in_order(chosen)})

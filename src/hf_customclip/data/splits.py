"""Which image belongs to which split: the data's own word, a split list's, or a seeded draw by image."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .report import DataError

ORDER = ("train", "validation", "test")
ALIASES = {
    **dict.fromkeys(("train", "training", "restval"), "train"),  # Karpathy's COCO trains on restval
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
DEFAULT_SEED = 42
DEFAULT_FRACTION = 0.05


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
            f"drawn here by image with seed {self.seed}: {self.validation_fraction:.4g} of the images for "
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

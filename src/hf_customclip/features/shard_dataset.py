"""Training pairs from feature shards: a few shards in memory at a time, no image twice in a batch, any length."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..data.pairs import FeatureBatch
from ..data.sampler import NoDuplicatesBatchSampler
from .shard_extraction import ingredients_of
from .shard_folder import MANIFEST, Shard, ShardFolder

# Shards whose pairs are mixed with each other; as many again wait for what was left over of them.
BLOCK_SHARDS = 8
# A pair's number is its shard's, and the caption's place in the shard.
SHARD_BITS = 32
# May differ between versions that compute the same.
NOT_COMPARED = ("code", "versions")


class FeatureShards(torch.utils.data.Dataset[Any]):
    """The pairs of feature shards, as `CustomClipTrainer(train_dataset=...)` reads them.

    Args:
        address: where `extract_features` has put them.

    Raises:
        ValueError: the shards are not there, or not all.
    """

    is_cached = True

    def __init__(self, address: str) -> None:
        self.folder = ShardFolder(address)
        manifest = self.folder.read_json(MANIFEST)
        if manifest is None:
            raise ValueError(
                f"{address} has no {MANIFEST}: `hf-customclip features extract SOURCE {address}` writes it when "
                "all shards are there."
            )
        self.manifest = manifest
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def __len__(self) -> int:
        """Pairs, of all captions."""
        return self.manifest["captions"]

    def __getitems__(self, pairs: list[int]) -> dict[str, torch.Tensor]:
        """The batch of these pairs."""
        numbers = np.asarray(pairs, dtype=np.int64)
        of_shard, captions = numbers >> SHARD_BITS, numbers & ((1 << SHARD_BITS) - 1)
        batch: dict[str, torch.Tensor] = {}
        for number in np.unique(of_shard):
            places = torch.from_numpy(np.flatnonzero(of_shard == number))
            for name, rows in self._take(self.shard(int(number)), captions[places.numpy()]).items():
                if name not in batch:
                    batch[name] = rows.new_empty((len(numbers), *rows.shape[1:]))
                batch[name][places] = rows
        return batch

    @staticmethod
    def _take(shard: Shard, captions: np.ndarray) -> dict[str, torch.Tensor]:
        chosen = torch.from_numpy(captions)
        rows = torch.searchsorted(shard.first, chosen, right=True) - 1
        return {
            "image_ids": shard.image_ids[rows],
            "image_features": shard.image_features[rows],
            "text_features": shard.text_features[chosen],
        }

    def shard(self, number: int) -> Shard:
        """A shard; the last few that were asked for stay open."""
        if number not in self._open:
            self._open[number] = self.folder.read_shard(self.manifest["shards"][number]["name"])
            if len(self._open) > 2 * BLOCK_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def check_made_by(self, model: Any, collator: Any) -> None:
        """Raise ValueError where other towers, processing or pooling than the model's made the features."""
        made, asked = self.manifest["ingredients"], ingredients_of(model, collator)
        other = [
            f"{tower} {name}"
            for tower in asked
            for name in asked[tower]
            if name not in NOT_COMPARED and made[tower].get(name) != asked[tower][name]
        ]
        if other:
            raise ValueError(
                f"The features in {self.folder.address} were made with other {', '.join(other)} than this model "
                "has: extract them anew with it."
            )

    def count_pairs(self, captions_per_image: int | None) -> int:
        """How many pairs an epoch shows of at most so many captions of an image (None for all)."""
        most = captions_per_image or len(self)
        return sum(
            min(int(captions), most) * rows
            for shard in self.manifest["shards"]
            for captions, rows in shard["rows_by_captions"].items()
        )

    def feature_batches(self, captions_per_image: int | None) -> Iterator[FeatureBatch]:
        """Image and text features, row by row a pair, of the first so many captions of every image; in order."""
        for number in range(len(self.manifest["shards"])):
            shard = self.shard(number)
            captions = choose_captions(shard.first.numpy(), captions_per_image, None)
            batch = self._take(shard, captions)
            yield FeatureBatch(batch["image_features"], batch["text_features"], torch.arange(len(captions)))

    def batch_sampler(self, batch_size: int, **options: Any) -> ShardBatchSampler:
        """Duplicate-free batches; options as those of `NoDuplicatesBatchSampler`."""
        return ShardBatchSampler(self, batch_size, **options)


def choose_captions(
    first: np.ndarray, captions_per_image: int | None, generator: np.random.Generator | None
) -> np.ndarray:
    """The places of each row's first so many captions, or with a generator of random ones, ascending."""
    places = np.arange(first[-1])
    if captions_per_image is None:
        return places
    rows = np.searchsorted(first, places, side="right") - 1
    if generator is None:
        return places[places - first[rows] < captions_per_image]
    shuffled = np.lexsort((generator.random(len(places)), rows))
    return np.sort(shuffled[places - first[rows] < captions_per_image])


class ShardBatchSampler(torch.utils.data.Sampler[list[int]]):
    """Batches of pairs, shuffled by shards and within `BLOCK_SHARDS` of them; no image twice in one.

    What does not fill a batch goes on to the next shards; of an image with more captions than the last shards
    have batches, those that fit into none are left out of the epoch (which takes captions by the dozen). Seed and
    epoch fix the order, so that a resumed run skips to the exact position without reading features. Arguments as
    those of `NoDuplicatesBatchSampler`.
    """

    def __init__(
        self,
        shards: FeatureShards,
        batch_size: int,
        *,
        captions_per_image: int | None = None,
        caption_sampling: str = "first",
        drop_last: bool = False,
        seed: int = 0,
        process_index: int = 0,
        num_processes: int = 1,
    ) -> None:
        if caption_sampling == "by_language":
            raise ValueError("Feature shards tell no languages: caption_sampling may be 'first' or 'random'.")
        self.shards, self.batch_size, self.captions_per_image = shards, batch_size, captions_per_image
        self.is_random, self.seed, self.epoch = caption_sampling == "random", seed, 0
        self.process_index, self.num_processes = process_index, num_processes
        self.whole = batch_size * num_processes
        total = shards.count_pairs(captions_per_image)
        self.num_batches = total // self.whole if drop_last else -(-total // self.whole)
        self.num_pairs = min(total, self.num_batches * self.whole)
        if not self.num_batches or total < num_processes:
            raise ValueError(f"{total} image-caption pairs are too few for a batch of {self.whole}")

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is iterated next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(len(self.shards.manifest["shards"]))
        blocks = np.array_split(order, -(-len(order) // BLOCK_SHARDS))
        pairs, ids, given = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
        for place, block in enumerate(blocks):
            new = [self._pairs_of(int(number), generator) for number in block]
            pairs = np.concatenate([pairs, *(numbers for numbers, _ in new)])
            ids = np.concatenate([ids, *(of_pairs for _, of_pairs in new)])
            is_last = place == len(blocks) - 1
            batches = self.num_batches - given if is_last else len(pairs) // self.whole
            chosen, rest = _split(ids, batches, batches * self.whole, generator)
            while not is_last and len(chosen) < batches * self.whole:
                # Images with more captions than there are batches: fewer batches, so that all of them are full.
                batches = len(chosen) // self.whole
                chosen, rest = _split(ids, batches, batches * self.whole, generator)
            if len(chosen):
                yield from self._deal(pairs[chosen], ids[chosen], generator)
            given += batches
            pairs, ids = pairs[rest], ids[rest]

    def _pairs_of(self, number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The chosen pairs of a shard, and their images' ids."""
        shard = self.shards.shard(number)
        first = shard.first.numpy()
        captions = choose_captions(first, self.captions_per_image, generator if self.is_random else None)
        rows = np.searchsorted(first, captions, side="right") - 1
        return (number << SHARD_BITS) + captions, shard.image_ids.numpy()[rows]

    def _deal(
        self, pairs: np.ndarray, ids: np.ndarray, generator: np.random.Generator
    ) -> NoDuplicatesBatchSampler:
        order = np.argsort(ids, kind="stable")
        ends = np.flatnonzero(np.diff(ids[order])) + 1
        images: Any = np.split(pairs[order], ends)
        return NoDuplicatesBatchSampler(
            images,
            self.batch_size,
            seed=int(generator.integers(2**31)),
            process_index=self.process_index,
            num_processes=self.num_processes,
        )


def _split(
    ids: np.ndarray, most: int, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places of at most `count` random pairs, of no image more than `most`; and those of the rest."""
    shuffled = generator.permutation(len(ids))
    order = shuffled[np.argsort(ids[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(ids[order], prepend=ids[order[:1]] - 1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    rank_of = np.empty(len(ids), np.int64)
    rank_of[order] = rank
    fits = shuffled[rank_of[shuffled] < most]
    return fits[:count], np.append(fits[count:], shuffled[rank_of[shuffled] >= most])

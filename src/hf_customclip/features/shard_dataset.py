"""Training from feature shards: a few in memory at a time, no image twice in a batch, any length."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch

from ..data.pairs import FeatureBatch
from ..data.sampler import NoDuplicatesBatchSampler
from ..modeling.freezing_custom_clip import TOWERS
from .keys import tower_ingredients
from .shard_folder import MANIFEST, Shard, ShardFolder

# Shards whose images are mixed with each other; as many again wait for what was left over of them.
BLOCK_SHARDS = 8
# A caption's number is its shard's, and its place in the shard.
SHARD_BITS = 32
NO_CAPTION = -1
# May differ between versions that compute the same.
NOT_COMPARED = ("code", "versions")


class FeatureShards(torch.utils.data.Dataset[Any]):
    """What feature shards hold, as `CustomClipTrainer(train_dataset=...)` reads them.

    Asked for caption numbers it gives pairs, for tuples of caption numbers images each with those captions.

    Args:
        address: where `extract_features` has put them.
        batch_of: "pairs" or "images" (each with all its chosen captions); what `batch_sampler` deals.

    Raises:
        ValueError: the shards are not there, or not all.
    """

    is_cached = True

    def __init__(self, address: str, batch_of: str = "pairs") -> None:
        self.folder, self.batch_of = ShardFolder(address), batch_of
        manifest = self.folder.read_json(MANIFEST)
        if manifest is None:
            raise ValueError(
                f"{address} has no {MANIFEST}: `hf-customclip features extract SOURCE {address}` writes it when "
                "all shards are there."
            )
        self.manifest = manifest
        # Shards of format 1 do not tell which captions are equal.
        self._of_captions = ("text_features", "caption_ids")[: manifest["format"]]
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def in_batches_of(self, batch_of: str) -> FeatureShards:
        """The same shards, dealt in "pairs" or "images"."""
        other = copy.copy(self)
        other.batch_of = batch_of
        return other

    def __len__(self) -> int:
        """Pairs, of all captions."""
        return self.manifest["captions"]

    def __getitems__(self, items: list[int] | list[tuple[int, ...]]) -> dict[str, torch.Tensor]:
        """The batch of these pairs, or of these images with captions."""
        if not isinstance(items[0], tuple):
            return self._gather(items, ("image_ids", "image_features", *self._of_captions))
        images: list[Any] = list(items)
        batch = self._gather([captions[0] for captions in images], ("image_ids", "image_features"))
        counts = torch.tensor([len(captions) for captions in images])
        batch["text_image_ids"] = batch["image_ids"].repeat_interleave(counts)
        return batch | self._gather(list(chain(*images)), self._of_captions)

    def _gather(self, captions: Any, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
        numbers = np.asarray(captions, dtype=np.int64)
        of_shard, places = numbers >> SHARD_BITS, numbers & ((1 << SHARD_BITS) - 1)
        batch: dict[str, torch.Tensor] = {}
        for number in np.unique(of_shard):
            mine, shard = torch.from_numpy(np.flatnonzero(of_shard == number)), self.shard(int(number))
            chosen = torch.from_numpy(places[mine.numpy()])
            rows = torch.searchsorted(shard.first, chosen, right=True) - 1
            for name in names:
                values = getattr(shard, name)[chosen if name in self._of_captions else rows]
                if name not in batch:
                    batch[name] = values.new_empty((len(numbers), *values.shape[1:]))
                batch[name][mine] = values
        return batch

    def shard(self, number: int) -> Shard:
        """A shard; the last few that were asked for stay open."""
        if number not in self._open:
            self._open[number] = Shard(**self.folder.read_tensors(self.manifest["shards"][number]["name"]))
            if len(self._open) > 2 * BLOCK_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def check_made_by(self, model: Any, collator: Any) -> None:
        """Raise ValueError where other towers, processing or pooling than the model's made the features."""
        made = self.manifest["ingredients"]
        other = [
            f"{tower} {name}"
            for tower in TOWERS
            for name, value in tower_ingredients(tower, model, collator).items()
            if name not in NOT_COMPARED and made[tower].get(name) != value
        ]
        if other:
            raise ValueError(
                f"The features in {self.folder.address} were made with other {', '.join(other)} than this model "
                "has: extract them anew with it."
            )

    def feature_batches(self, captions_per_image: int | None) -> Iterator[FeatureBatch]:
        """The features of images and of their first so many captions, a shard a batch."""
        for number in range(len(self.manifest["shards"])):
            shard = self.shard(number)
            captions = choose_captions(shard.first.numpy(), captions_per_image, None)
            rows = np.searchsorted(shard.first.numpy(), captions, side="right") - 1
            texts = shard.text_features[torch.from_numpy(captions)]
            yield FeatureBatch(shard.image_features, texts, torch.from_numpy(rows))

    def draw_pairs(
        self, size: int, generator: np.random.Generator, captions_per_image: int | None
    ) -> dict[str, torch.Tensor]:
        """The batch of at most `size` random images with a random one of their first so many captions each."""
        ends = np.cumsum([shard["rows"] for shard in self.manifest["shards"]])
        total = int(ends[-1])
        drawn = np.sort(generator.choice(total, min(size, total), replace=False))
        captions: list[int] = []
        for number in np.searchsorted(ends, drawn, side="right"):
            row = int(drawn[len(captions)] - (ends[number - 1] if number else 0))
            begin, end = self.shard(int(number)).first[row : row + 2].tolist()
            count = min(end - begin, captions_per_image or end)
            captions.append((int(number) << SHARD_BITS) + begin + int(generator.integers(count)))
        return self.__getitems__(captions)

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


class ShardBatchSampler(torch.utils.data.Sampler[Any]):
    """Batches of pairs or images, shuffled by shards and within `BLOCK_SHARDS` of them; no image twice in one.

    What does not fill a batch goes on to the next shards. An epoch has as many batches as are filled, but at least as
    many as a row has captions that are shown as pairs. Where further rows repeat an image, and more often than the
    last shards have batches, those that fit into none are left out of the epoch (which takes captions by the dozen).
    Seed and epoch fix the order, so that a resumed run skips to the exact position without reading features.
    Arguments as those of `NoDuplicatesBatchSampler`.
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
        listed, self.most = [shard["rows_by_captions"] for shard in shards.manifest["shards"]], 1
        if shards.batch_of == "pairs":
            longest = max(int(captions) for rows in listed for captions in rows)
            self.most = min(longest, captions_per_image or longest)
        # Pairs or images in each shard.
        self.sizes = [sum(min(int(c), self.most) * count for c, count in rows.items()) for rows in listed]
        total = sum(self.sizes)
        if total < num_processes:
            raise ValueError(f"{total} {shards.batch_of} are too few for {num_processes} process(es)")
        filled = total // self.whole if drop_last else -(-total // self.whole)
        self.num_batches = max(filled, self.most)
        self.num_pairs = min(total, self.num_batches * self.whole)

    def __len__(self) -> int:
        return self.num_batches

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order is iterated next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        generator = np.random.default_rng([self.seed, self.epoch])
        blocks = self._blocks(generator.permutation(len(self.sizes)))
        captions, ids, given = np.zeros((0, 1), np.int64), np.zeros(0, np.int64), 0
        for place, block in enumerate(blocks):
            new = [self._items_of(int(number), generator) for number in block]
            captions = _stacked([captions, *(of_items for of_items, _ in new)])
            ids = np.concatenate([ids, *(of_items for _, of_items in new)])
            is_last = place == len(blocks) - 1
            batches = self.num_batches - given if is_last else len(ids) // self.whole
            chosen, rest = _split(ids, batches, batches * self.whole, generator)
            while not is_last and len(chosen) < batches * self.whole:
                # Images that stand in more rows than there are batches: fewer batches, so that all of them are full.
                batches = len(chosen) // self.whole
                chosen, rest = _split(ids, batches, batches * self.whole, generator)
            if len(chosen):
                for batch in self._deal(ids, chosen, batches, generator):
                    yield self._batch(captions[batch])
            given += batches
            captions, ids = captions[rest], ids[rest]

    def _blocks(self, order: np.ndarray) -> list[list[int]]:
        """Shards by the block, each with enough batches for all captions of a row."""
        blocks: list[list[int]] = [[]]
        for part in np.array_split(order, -(-len(order) // BLOCK_SHARDS)):
            if sum(self.sizes[number] for number in blocks[-1]) >= self.most * self.whole:
                blocks.append([])
            blocks[-1] += part.tolist()
        if len(blocks) > 1 and sum(self.sizes[number] for number in blocks[-1]) < self.most * self.whole:
            blocks[-2:] = [blocks[-2] + blocks[-1]]
        return blocks

    def _items_of(self, number: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """A shard's pairs or images, by their chosen captions (items, most captions), and their images' ids."""
        shard = self.shards.shard(number)
        first = shard.first.numpy()
        captions = choose_captions(first, self.captions_per_image, generator if self.is_random else None)
        rows = np.searchsorted(first, captions, side="right") - 1
        numbers = (number << SHARD_BITS) + captions
        if self.shards.batch_of == "pairs":
            return numbers[:, None], shard.image_ids.numpy()[rows]
        shown, begins, counts = np.unique(rows, return_index=True, return_counts=True)
        table = np.full((len(shown), counts.max(initial=1)), NO_CAPTION)
        table[np.repeat(np.arange(len(shown)), counts), np.arange(len(rows)) - np.repeat(begins, counts)] = (
            numbers
        )
        return table, shard.image_ids.numpy()[shown]

    def _deal(
        self, ids: np.ndarray, chosen: np.ndarray, batches: int, generator: np.random.Generator
    ) -> NoDuplicatesBatchSampler:
        """Places in `ids`, batch by batch."""
        order = chosen[np.argsort(ids[chosen], kind="stable")]
        ends = np.flatnonzero(np.diff(ids[order])) + 1
        images: Any = np.split(order, ends)
        return NoDuplicatesBatchSampler(
            images,
            self.batch_size,
            seed=int(generator.integers(2**31)),
            process_index=self.process_index,
            num_processes=self.num_processes,
            num_batches=batches,
        )

    def _batch(self, captions: np.ndarray) -> list[Any]:
        if self.shards.batch_of == "pairs":
            return captions[:, 0].tolist()
        return [tuple(row[row != NO_CAPTION].tolist()) for row in captions]


def _stacked(tables: list[np.ndarray]) -> np.ndarray:
    width = max(table.shape[1] for table in tables)
    return np.concatenate(
        [np.pad(t, ((0, 0), (0, width - t.shape[1])), constant_values=NO_CAPTION) for t in tables]
    )


def _split(
    ids: np.ndarray, most: int, count: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places of at most `count` random items, of no image more than `most`; and those of the rest."""
    shuffled = generator.permutation(len(ids))
    order = shuffled[np.argsort(ids[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(ids[order], prepend=ids[order[:1]] - 1))
    rank = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    rank_of = np.empty(len(ids), np.int64)
    rank_of[order] = rank
    fits = shuffled[rank_of[shuffled] < most]
    return fits[:count], np.append(fits[count:], shuffled[rank_of[shuffled] >= most])

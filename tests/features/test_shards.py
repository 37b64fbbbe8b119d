"""Feature shards: extracted from a stream, trained on.

Pinned: shards hold the towers' own outputs for every row and caption, once, whatever the number of processes, also
with fewer source shards than processes; killed at random, the bytes are those of a run never killed, on a local disk
and on an object store; unreadable images are counted and named, or stop it; other towers are refused, for the
extraction and for training; batches of pairs and of images hold no image twice over all processes, every chosen
caption is shown once an epoch whatever the batch size, and the length is exact; batches tell which captions are equal
(case and blanks aside) whatever their shards, as the listing path's do, and shards made before that are still read;
batches of images train as the listing path's; resumed in mid-epoch, training ends with the weights of a run never
stopped; sums of canonical correlation are those of the listing path; a stream itself is refused in a sentence.
"""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from datasets import Dataset, Image, IterableDataset
from tiny import tiny_dataset, tiny_model, tiny_processor
from tiny_training import make_trainer
from tqdm.auto import tqdm
from transformers import TrainerCallback

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments
from hf_customclip.data.data_collator import ContrastiveCollator
from hf_customclip.data.inspection import inspect_source
from hf_customclip.evaluation.embedded_dataset import embed_dataset
from hf_customclip.features import shard_extraction
from hf_customclip.features.cache import FeatureCache
from hf_customclip.features.shard_dataset import FeatureShards, choose_captions
from hf_customclip.features.shard_extraction import extract_features
from hf_customclip.features.shard_folder import MANIFEST, ShardFolder
from hf_customclip.search.sources import open_source

FORK = multiprocessing.get_context("fork")


def stream(rows: int = 40, shards: int = 4, captions: int = 2) -> IterableDataset:
    return tiny_dataset(rows, captions=captions).to_iterable_dataset(num_shards=shards)


def extract(out: Path | str, dataset: IterableDataset | None = None, **options: Any) -> Any:
    options = {"precision": "float32", "show_progress": False, **options}
    return extract_features(
        tiny_model(), tiny_processor(), stream() if dataset is None else dataset, str(out), **options
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def all_pairs(shards: FeatureShards) -> tuple[torch.Tensor, torch.Tensor]:
    batches = list(shards.feature_batches(None))
    images = torch.cat([batch.images[batch.image_of_text] for batch in batches])
    return images, torch.cat([batch.texts for batch in batches])


def expected(rows: int = 40, captions: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled outputs one by one, a pair a row."""
    model, processor, data = tiny_model(), tiny_processor(), tiny_dataset(rows, captions=captions)
    images, texts = [], []
    with torch.no_grad():
        for row in data:
            pixels = processor(images=row["image"], return_tensors="pt")["pixel_values"]
            for caption in row["captions"]:
                tokens = processor(text=caption, return_tensors="pt")
                images.append(model.pool_image(pixels))
                texts.append(model.pool_text(tokens["input_ids"], tokens["attention_mask"]))
    return torch.cat(images), torch.cat(texts)


def assert_same_pairs(
    found: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]
) -> None:
    both = [torch.cat([part.double() for part in pair], dim=1) for pair in (found, wanted)]
    order = [np.lexsort(pairs.numpy().round(3).T) for pairs in both]
    torch.testing.assert_close(both[0][order[0]], both[1][order[1]], rtol=1e-4, atol=1e-4)


def test_shards_hold_the_towers_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_extraction, "SHARD_ROWS", 6)
    manifest = extract(tmp_path)
    assert (manifest["rows"], manifest["captions"], manifest["unreadable"]) == (40, 80, 0)
    for found, wanted in zip(all_pairs(FeatureShards(str(tmp_path))), expected(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(("shards", "processes"), [(4, 2), (1, 3), (2, 3)])
def test_processes_share_out_every_row_once(tmp_path: Path, shards: int, processes: int) -> None:
    done = [
        extract(tmp_path, stream(shards=shards), process_index=rank, num_processes=processes)
        for rank in range(processes)
    ]
    assert done[:-1] == [None] * (processes - 1)
    assert done[-1]["rows"] == 40
    assert_same_pairs(all_pairs(FeatureShards(str(tmp_path))), expected())


def extract_in_child(out: str, rank: int) -> None:
    # Not the bars' lock that is shared with the parent: killed with it in hand, this process would leave it locked.
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(1)
    extract(out, stream(240, 12), process_index=rank, num_processes=2)


def test_killed_at_random_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    begun = time.monotonic()
    for rank in range(2):
        extract(tmp_path / "whole", stream(240, 12), process_index=rank, num_processes=2)
    duration, rng, killed = time.monotonic() - begun, random.Random(0), 0
    out = tmp_path / "killed"
    for _ in range(10):
        children = [FORK.Process(target=extract_in_child, args=(str(out), rank)) for rank in range(2)]
        for child in children:
            child.start()
        time.sleep(rng.uniform(0.1, 0.5) * duration)
        for child in children:
            killed += child.is_alive()
            child.kill()
            child.join()
    for rank in range(2):
        extract(out, stream(240, 12), process_index=rank, num_processes=2)
    assert killed > 0
    found = {name: data for name, data in contents(out).items() if not name.endswith(".tmp")}
    assert found == contents(tmp_path / "whole")


def test_an_object_store(tmp_path: Path) -> None:
    extract(tmp_path)
    extract("memory://bucket/features")
    folder = ShardFolder("memory://bucket/features")
    stored = {Path(name).name: folder.fs.cat_file(name) for name in folder.fs.ls(folder.root, detail=False)}
    assert stored == contents(tmp_path)
    batch = FeatureShards("memory://bucket/features").__getitems__([3, 0])
    torch.testing.assert_close(batch["text_features"], expected()[1][[3, 0]], rtol=1e-5, atol=1e-5)
    fsspec.filesystem("memory").rm("/bucket", recursive=True)


def with_broken_row(row: int) -> IterableDataset:
    data = tiny_dataset(20).cast_column("image", Image(decode=False))
    rows = data.to_list()
    rows[row]["image"] = {"bytes": rows[row]["image"]["bytes"][:60], "path": "cut.png"}
    return Dataset.from_list(rows, features=tiny_dataset(1).features).to_iterable_dataset(num_shards=2)


def test_unreadable_images(tmp_path: Path) -> None:
    manifest = extract(tmp_path / "skip", with_broken_row(3))
    assert (manifest["rows"], manifest["unreadable"]) == (19, 1)
    assert manifest["unreadable_examples"][0].startswith("cut.png")
    images, _ = expected(20)
    kept = [pair for pair in range(40) if pair // 2 != 3]
    found, _ = all_pairs(FeatureShards(str(tmp_path / "skip")))
    torch.testing.assert_close(found, images[kept], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"cut\.png"):
        extract(tmp_path / "error", with_broken_row(3), unreadable="error")


def test_other_towers_are_refused(tmp_path: Path) -> None:
    extract(tmp_path)
    other = tiny_model()
    with torch.no_grad():
        next(other.text_model.parameters()).add_(1)
    with pytest.raises(ValueError, match="other ingredients"):
        extract_features(other, tiny_processor(), stream(), str(tmp_path), precision="float32")
    with pytest.raises(ValueError, match="other text weights"):
        FeatureShards(str(tmp_path)).check_made_by(other, ContrastiveCollator(tiny_processor(), 32))
    with pytest.raises(ValueError, match="vision tower cannot be extracted: it is trained"):
        extract_features(tiny_model(freeze_vision=False), tiny_processor(), stream(), str(tmp_path / "new"))
    with pytest.raises(ValueError, match=MANIFEST):
        FeatureShards(str(tmp_path / "nowhere"))


@pytest.fixture(scope="module")
def repeated(tmp_path_factory: pytest.TempPathFactory) -> FeatureShards:
    """200 rows in 20 shards; each of 100 images stands in two of them."""
    folder = tmp_path_factory.mktemp("repeated")
    data = tiny_dataset(100, captions=3)
    extract(folder, data.select([*range(100), *range(100)]).to_iterable_dataset(num_shards=20))
    return FeatureShards(str(folder))


@pytest.mark.parametrize("batch_of", ["pairs", "images"])
@pytest.mark.parametrize("sampling", ["first", "random"])
@pytest.mark.parametrize(("processes", "batch_size"), [(1, 16), (2, 7), (3, 10)])
def test_batches(
    repeated: FeatureShards, sampling: str, processes: int, batch_size: int, batch_of: str
) -> None:
    shards = repeated.in_batches_of(batch_of)

    def shares(epoch: int) -> list[list[list[Any]]]:
        samplers = [
            shards.batch_sampler(
                batch_size,
                captions_per_image=2,
                caption_sampling=sampling,
                process_index=rank,
                num_processes=processes,
            )
            for rank in range(processes)
        ]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        return [list(sampler) for sampler in samplers]

    for epoch in range(3):
        batches = [list(chain(*step)) for step in zip(*shares(epoch), strict=True)]
        items = 400 if batch_of == "pairs" else 200
        assert len(batches) == -(-items // (batch_size * processes))
        shown = Counter(chain(*batches) if batch_of == "pairs" else chain(*chain(*batches)))
        assert len(shown) == 400 and set(shown.values()) == {1}
        for batch in batches:
            ids = shards.__getitems__(batch)["image_ids"]
            assert len(ids.unique()) == len(ids) <= batch_size * processes
    assert shares(1) == shares(1) != shares(2)


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("rows", "shards", "batch_size"), [(6, 1, 64), (40, 20, 50), (40, 20, 3)])
def test_every_caption_is_shown_whatever_the_size_of_batches(
    tmp_path: Path, rows: int, shards: int, batch_size: int, drop_last: bool
) -> None:
    extract(tmp_path, stream(rows, shards, captions=3))
    sampler = FeatureShards(str(tmp_path)).batch_sampler(batch_size, drop_last=drop_last)
    batches = list(sampler)
    # As many batches as an image has captions, where they would fill fewer.
    filled = 3 * rows // batch_size if drop_last else -(-3 * rows // batch_size)
    assert len(batches) == len(sampler) == max(filled, 3)
    shown = Counter(chain(*batches))
    assert set(shown.values()) == {1}
    assert len(shown) == (min(3 * rows, len(batches) * batch_size) if drop_last else 3 * rows)


def test_images_with_their_captions(repeated: FeatureShards) -> None:
    shards = repeated.in_batches_of("images")
    items = next(iter(shards.batch_sampler(16, captions_per_image=2)))
    batch = shards.__getitems__(items)
    assert batch["text_image_ids"].tolist() == [
        name for name in batch["image_ids"].tolist() for _ in range(2)
    ]
    pairs = shards.__getitems__([caption for captions in items for caption in captions])
    assert torch.equal(pairs["image_ids"], batch["text_image_ids"])
    assert torch.equal(pairs["text_features"], batch["text_features"])
    assert torch.equal(pairs["image_features"][::2], batch["image_features"])


@pytest.fixture
def shop() -> Dataset:
    """Four images, the first and the last with one title."""
    captions = [
        ["a red mug", "for coffee"],
        ["a plate", "for soup"],
        ["a jug", "for tea"],
        ["A  Red mug", "old"],
    ]
    return tiny_dataset(4).remove_columns("captions").add_column("captions", captions)


def test_equal_captions_are_told_as_by_the_listing_path(tmp_path: Path, shop: Dataset) -> None:
    extract(tmp_path / "shards", shop.to_iterable_dataset(num_shards=4))  # an image a shard
    shards = FeatureShards(str(tmp_path / "shards"), "images")
    images = [((row << 32), (row << 32) + 1) for row in range(4)]
    batch = shards.__getitems__(images)
    a, b, c, d, e, f, g, h = batch["caption_ids"].tolist()
    assert a == g and len({a, b, c, d, e, f, h}) == 7
    assert shards.__getitems__([images[3][0], images[1][1], images[0][0]])["caption_ids"].tolist() == [
        a,
        d,
        a,
    ]
    cache = FeatureCache(mode="always", folder=tmp_path / "cache", precision="float32", show_progress=False)
    listed = cache.training_items(tiny_model(), shop, ContrastiveCollator(tiny_processor(), 32))
    of_listing = listed.__getitems__([(0, (2 * row, 2 * row + 1)) for row in range(4)])
    assert set(of_listing) == set(batch)
    trainer = make_trainer(tmp_path, model=tiny_model(projection_dropout=0.0))
    with torch.no_grad():
        losses = [float(trainer.compute_loss(trainer.model.eval(), found)) for found in (batch, of_listing)]
        del batch["caption_ids"]
        assert losses[0] == pytest.approx(losses[1]) != float(trainer.compute_loss(trainer.model, batch))


def test_shards_made_before_they_told_equal_captions(tmp_path: Path) -> None:
    manifest, folder = extract(tmp_path), ShardFolder(str(tmp_path))
    pairs = [5, (1 << 32) + 3]
    batch = FeatureShards(str(tmp_path)).__getitems__(pairs)
    for shard in manifest["shards"]:
        tensors = {name: of.clone() for name, of in folder.read_tensors(shard["name"]).items()}
        del tensors["caption_ids"]
        folder.write_tensors(shard["name"], tensors)
    folder.write_json(MANIFEST, {**manifest, "format": 1})
    before = FeatureShards(str(tmp_path)).__getitems__(pairs)
    assert batch.keys() - before.keys() == {"caption_ids"}
    assert all(torch.equal(batch[name], before[name]) for name in before)


def test_drawn_pairs(repeated: FeatureShards) -> None:
    texts_of: dict[int, torch.Tensor] = {}
    for number in range(20):
        shard = repeated.shard(number)
        for row, name in enumerate(shard.image_ids.tolist()):
            texts_of[name] = shard.text_features[shard.first[row] : shard.first[row] + 2]
    drawn = repeated.draw_pairs(50, np.random.default_rng(0), captions_per_image=2)
    assert len(drawn["image_ids"]) == 50
    for name, text in zip(drawn["image_ids"].tolist(), drawn["text_features"], strict=True):
        assert min((texts_of[name] - text).abs().amax(1)) < 1e-5
    assert len(repeated.draw_pairs(1000, np.random.default_rng(0), None)["image_ids"]) == 200


def test_chosen_captions() -> None:
    first = np.array([0, 3, 4, 4, 9])
    assert choose_captions(first, 2, None).tolist() == [0, 1, 3, 4, 5]
    assert choose_captions(first, None, None).tolist() == list(range(9))
    seen: set[int] = set()
    for seed in range(30):
        chosen = choose_captions(first, 2, np.random.default_rng(seed))
        assert Counter(np.searchsorted(first, chosen, side="right") - 1) == {0: 2, 1: 1, 3: 2}
        seen |= set(chosen.tolist())
    assert seen == set(range(9))


class Interrupt(TrainerCallback):
    """In the middle of the first epoch, three steps after a checkpoint."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 12:
            raise KeyboardInterrupt


def train(
    shards: Any,
    folder: Path,
    resume: bool = False,
    callbacks: Any = None,
    projection_dropout: float = 0.5,
    **options: Any,
) -> CustomClipTrainer:
    arguments = {
        "per_device_train_batch_size": 16,
        "num_train_epochs": 2,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 9,
        "head_init": "cca",
        "captions_per_image": 2,
        "batch_of": "pairs",
        **options,
    }
    trainer = CustomClipTrainer(
        tiny_model(projection_dropout=projection_dropout),
        CustomClipTrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=shards,
        eval_dataset=tiny_dataset(8),
        processing_class=tiny_processor(),
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_training_is_resumed_at_the_exact_position(repeated: FeatureShards, tmp_path: Path) -> None:
    whole = train(repeated, tmp_path / "whole", save_strategy="no")
    assert whole.state.max_steps == 2 * 25
    assert "eval_rsum" in whole.evaluate()
    with pytest.raises(KeyboardInterrupt):
        train(repeated, tmp_path / "stopped", callbacks=[Interrupt()])
    resumed = train(repeated, tmp_path / "stopped", resume=True)
    assert resumed.state.global_step == 50
    others = dict(whole.model.named_parameters())
    for name, parameter in resumed.model.named_parameters():
        torch.testing.assert_close(parameter, others[name], rtol=1e-4, atol=1e-5, msg=name)


def test_batches_of_images_end_as_the_listing_path_does(tmp_path: Path) -> None:
    """All images in one batch, no dropout: the order does not matter, and the weights are the same."""
    extract(tmp_path / "shards")
    options = {
        "batch_of": "images",
        "per_device_train_batch_size": 40,
        "num_train_epochs": 3,
        "save_strategy": "no",
    }
    options |= {
        "feature_cache_dir": str(tmp_path / "cache"),
        "feature_precision": "float32",
        "hubness_bank_size": 8,
    }
    ends = [
        train(data, tmp_path / name, projection_dropout=0.0, **options)
        for name, data in (("a", FeatureShards(str(tmp_path / "shards"))), ("b", tiny_dataset(40)))
    ]
    others = dict(ends[1].model.named_parameters())
    for name, parameter in ends[0].model.named_parameters():
        torch.testing.assert_close(parameter, others[name], rtol=1e-3, atol=1e-4, msg=name)
    assert "eval_csls_rsum" in ends[0].evaluate()


def test_sums_are_those_of_the_listing_path(tmp_path: Path) -> None:
    extract(tmp_path / "shards")
    cache = FeatureCache(mode="always", folder=tmp_path / "cache", precision="float32", show_progress=False)
    listed = cache.training_items(tiny_model(), tiny_dataset(40), ContrastiveCollator(tiny_processor(), 32))
    sums = []
    for pairs in (listed, FeatureShards(str(tmp_path / "shards"))):
        batches = list(pairs.feature_batches(1))
        x, y = (torch.cat([getattr(b, of) for b in batches]).double() for of in ("images", "texts"))
        sums.append(torch.cat([x.sum(0), (x.T @ y).flatten()]))
    torch.testing.assert_close(sums[0], sums[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("used", ["train", "evaluate", "embed_dataset", "open_source", "inspect_source"])
def test_a_stream_itself_is_refused(tmp_path: Path, used: str) -> None:
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.train_dataset = stream()
    calls: dict[str, Callable[[], Any]] = {
        "train": trainer.train,
        "evaluate": lambda: trainer.evaluate(stream()),
        "embed_dataset": lambda: embed_dataset(tiny_model(), tiny_processor(), stream()),
        "open_source": lambda: open_source(stream()),  # of an index, and of an export
        "inspect_source": lambda: inspect_source(stream()),
    }
    with pytest.raises(ValueError, match=r"^A stream cannot be .*: (load it with|give)"):
        calls[used]()


def test_the_manifest_is_plain_json(tmp_path: Path) -> None:
    assert extract(tmp_path) == json.loads((tmp_path / MANIFEST).read_text())
    assert extract(tmp_path) == json.loads((tmp_path / MANIFEST).read_text())  # again: nothing to do

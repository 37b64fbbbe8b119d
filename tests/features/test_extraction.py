"""The pass of the towers over a data set.

Pinned: cached features are the towers' own outputs for each row and caption, whatever the batch or worker they
were computed in; killed at random moments, with and without workers, it ends with the bytes of an undisturbed
run; two runs at once share one store and end with the same bytes; unreadable images stop it by name, or are
left out by name and number, rows and captions with them; it leaves the model and the random numbers alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import pickle
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import tiny_dataset, tiny_model, tiny_processor
from tqdm.auto import tqdm

from hf_customclip.data.data_collator import ContrastiveCollator
from hf_customclip.data.pairs import TrainingDataset
from hf_customclip.features import extraction
from hf_customclip.features.cache import FeatureCache
from hf_customclip.inference import loading
from hf_customclip.inference.loading import worker_count

FORK = multiprocessing.get_context("fork")


def keep(folder: Path, dataset: Dataset, model: Any = None, **options: Any) -> TrainingDataset:
    options = {"precision": "float32", "show_progress": False, **options}
    cache = FeatureCache(mode="always", folder=folder, **options)
    collator = ContrastiveCollator(tiny_processor(), 32)
    return cache.training_items(tiny_model() if model is None else model, dataset, collator, batch_of="pairs")


def contents(folder: Path) -> dict[str, bytes]:
    """Of all files of all stores, by store and name."""
    files = [path for path in folder.glob("*-*/*") if path.name != ".lock"]
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for path in files}


def repeated(dataset: Dataset) -> Dataset:
    """Each image and caption twice, in another order."""
    return dataset.select([*range(len(dataset)), *reversed(range(len(dataset)))])


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def reference(model: Any, dataset: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled outputs one by one: no batch, no padding."""
    processor = tiny_processor()
    captions = [processor(text=text, return_tensors="pt") for row in dataset["captions"] for text in row]
    inputs = [processor(images=image, return_tensors="pt") for image in dataset["image"]]
    with torch.no_grad():
        images = [model.pool_image(one["pixel_values"]) for one in inputs]
        texts = [model.pool_text(caption["input_ids"], caption["attention_mask"]) for caption in captions]
    return torch.cat(images), torch.cat(texts)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_features_are_the_towers_outputs(tmp_path: Path, pooling: str) -> None:
    model, dataset = tiny_model(text_pooling=pooling, vision_pooling=pooling), tiny_dataset(40, captions=3)
    images, texts = reference(model, dataset)
    kept = keep(tmp_path, repeated(dataset), model)
    backwards = torch.arange(len(images) - 1, -1, -1)
    expected = torch.cat([images, images[backwards]])
    torch.testing.assert_close(kept.image_features[0:80], expected, rtol=1e-5, atol=1e-5)
    texts = texts.view(40, 3, -1)
    expected = torch.cat([texts, texts[backwards]]).view(240, -1)
    torch.testing.assert_close(kept.text_features[0:240], expected, rtol=1e-5, atol=1e-5)
    assert len(kept.image_features.features) == 40 and len(kept.text_features.features) == 120


def test_workers_write_the_same_bytes(tmp_path: Path, two_threads: None) -> None:
    assert worker_count(torch.device("cpu"), 0, 1) == 2
    keep(tmp_path / "two", tiny_dataset(40))
    torch.set_num_threads(1)
    assert worker_count(torch.device("cpu"), 0, 1) == 0
    keep(tmp_path / "none", tiny_dataset(40))
    assert contents(tmp_path / "two") == contents(tmp_path / "none")
    names = {name.split("/")[1] for name in contents(tmp_path / "two")}
    assert names == {"plan.json", "00000-0000.safetensors", "00001-0000.safetensors", "manifest.json"}


def test_an_accelerator_is_fed_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(tmp_path / "here", tiny_dataset(40))
    # The tower then runs in this process: here on the CPU again, which no worker would have done.
    monkeypatch.setattr(loading, "computes_in_workers", lambda device: False)
    model = tiny_model()
    rows: list[int] = []
    model.vision_model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["pixel_values"])), with_kwargs=True
    )
    kept = keep(tmp_path / "fed", tiny_dataset(40), model, workers=2)
    assert rows == [40]
    here = keep(tmp_path / "here", tiny_dataset(40))
    for name in ("image_features", "text_features"):
        torch.testing.assert_close(getattr(kept, name)[:], getattr(here, name)[:], rtol=1e-5, atol=1e-5)


def test_workers_for_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    def free(size: int) -> None:
        usage = shutil.disk_usage("/")._replace(free=size)
        monkeypatch.setattr(loading.shutil, "disk_usage", lambda path: usage)

    cuda, batch = torch.device("cuda"), 64 * 1000
    free(1 << 40)
    assert worker_count(cuda, 5, batch) == 5
    assert 1 <= worker_count(cuda, 0, batch) <= 16
    free(7 * batch)  # three batches each
    assert worker_count(cuda, 5, batch) == 2
    free(2 * batch)
    assert worker_count(cuda, 5, batch) == 0


def test_the_model_and_the_random_numbers_are_left_alone(tmp_path: Path, two_threads: None) -> None:
    model = tiny_model()
    model.train()
    before = {name: (value.data_ptr(), value.clone()) for name, value in model.state_dict().items()}
    modes, state = [module.training for module in model.modules()], torch.get_rng_state()
    keep(tmp_path, tiny_dataset(40), model, precision="bfloat16")
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert value.data_ptr() == before[name][0] and torch.equal(value, before[name][1])


def test_reduced_precision_is_close_and_half_as_big(tmp_path: Path) -> None:
    dataset = tiny_dataset(32)
    exact = keep(tmp_path / "float32", dataset).image_features[:]
    rough = keep(tmp_path / "bfloat16", dataset, precision="bfloat16").image_features[:]
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).norm(dim=1) / exact.norm(dim=1)
    assert 0 < error.max() < 0.05


def keep_in_child(folder: Path, dataset: Dataset, threads: int) -> None:
    # Not the bars' lock that is shared with the parent: killed with it in hand, this process would leave it locked.
    tqdm.set_lock(threading.RLock())
    torch.set_num_threads(threads)
    keep(folder, dataset)


@pytest.mark.parametrize("threads", [1, 2])
def test_killed_at_random_moments_it_ends_with_the_same_bytes(tmp_path: Path, threads: int) -> None:
    dataset = tiny_dataset(256, captions=1)
    started = time.monotonic()
    keep(tmp_path / "whole", dataset)
    duration, rng, killed = time.monotonic() - started, random.Random(0), 0
    for _ in range(8):
        process = FORK.Process(target=keep_in_child, args=(tmp_path / "killed", dataset, threads))
        process.start()
        process.join(rng.uniform(0.1, 0.5) * duration)
        if process.exitcode is None:
            process.kill()
            process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        killed += 1
    keep(tmp_path / "killed", dataset)
    assert killed > 0
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_two_runs_at_once(tmp_path: Path) -> None:
    dataset = tiny_dataset(256, captions=1)
    keep(tmp_path / "alone", dataset)
    runs = [FORK.Process(target=keep_in_child, args=(tmp_path / "both", dataset, 1)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert contents(tmp_path / "both") == contents(tmp_path / "alone")


def test_what_another_process_has_claimed_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    write = extraction.FeatureStore.write_part
    monkeypatch.setattr(
        extraction.FeatureStore,
        "write_part",
        lambda store, part, *rest: (computed.append(part), write(store, part, *rest)),
    )
    dataset = tiny_dataset(256, captions=1)
    other = FORK.Process(target=keep_in_child, args=(tmp_path, dataset, 1))
    other.start()
    while not list(tmp_path.glob("vision-*/work/00000.json")):
        time.sleep(0.001)
    keep(tmp_path, dataset)
    other.join(60)
    assert other.exitcode == 0
    assert len(computed) < 8  # 4 parts of images, 4 of captions: some were the other's


def broken(dataset: Dataset, *rows: int) -> Dataset:
    """These rows' images are cut short, and have names."""
    undecoded = [{**row["image"], "path": f"{i}.png"} for i, row in enumerate(raw(dataset))]
    for row in rows:
        undecoded[row]["bytes"] = undecoded[row]["bytes"][:60]
    return Dataset.from_dict({**dataset.remove_columns("image")[:], "image": undecoded}).cast(
        dataset.features
    )


def raw(dataset: Dataset) -> list[Any]:
    from datasets import Image

    return list(dataset.cast_column("image", Image(decode=False)))


def test_unreadable_images_stop_it_by_name(tmp_path: Path) -> None:
    dataset = broken(tiny_dataset(20), 2, 5)
    with pytest.raises(ValueError, match=r"2 image\(s\) cannot be read: 2\.png \(.*\); 5\.png.*'skip'"):
        keep(tmp_path, dataset)
    keep(tmp_path, dataset, unreadable="skip")
    with pytest.raises(ValueError, match=r"2\.png"):  # the features are there, and it still is an error
        keep(tmp_path, dataset)


def test_unreadable_images_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = tiny_dataset(20)
    dataset = repeated(broken(whole, 2, 19))
    with caplog.at_level(logging.WARNING, "hf_customclip.features.cache"):
        kept = keep(tmp_path, dataset, unreadable="skip")
    (message,) = caplog.messages
    assert message.startswith("2 image(s) cannot be read and are left out, 4 row(s) with them: 2.png")
    assert len(kept) == 72
    images, texts = reference(tiny_model(), whole)
    good = [row for row in [*range(20), *reversed(range(20))] if row not in (2, 19)]
    cache = FeatureCache(mode="always", folder=tmp_path, precision="float32", unreadable="skip")
    items = cache.retrieval_items(tiny_model(), dataset, ContrastiveCollator(tiny_processor(), 32))
    assert len(items) == 36
    for item, row in zip(items, good, strict=True):  # type: ignore[call-overload]
        torch.testing.assert_close(item["image_features"], images[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(item["text_features"], texts[2 * row : 2 * row + 2], rtol=1e-5, atol=1e-5)


def test_cached_rows_are_mapped_anew_in_a_spawned_worker(tmp_path: Path) -> None:
    rows = keep(tmp_path, tiny_dataset(200)).image_features
    pickled = pickle.dumps(rows)
    assert len(pickled) < rows.features.nbytes / 2
    again = pickle.loads(pickled)
    assert torch.equal(again[0:200], rows[0:200]) and torch.equal(again.features.to("cpu"), rows[0:200])


def test_one_row_a_slice_and_rows_in_any_order(tmp_path: Path) -> None:
    rows = keep(tmp_path, tiny_dataset(200)).image_features
    on_device = rows.on(torch.device("cpu"))
    for chosen in (7, 199, slice(60, 140), np.array([150, 3, 70, 3])):
        assert torch.equal(rows[chosen], on_device[chosen])
    assert rows[7].shape == (32,) and rows[np.array([7])].shape == (1, 32)


def test_progress_is_quiet_when_piped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, tiny_dataset(3), show_progress=True)
    assert capfd.readouterr() == ("", "")

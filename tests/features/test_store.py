"""The on-disk store, filled by hand with known numbers.

Pinned: what is written comes back, memory-mapped, by any rows in any order, in files that safetensors itself reads;
each byte altered anywhere (features, numbers, header, manifest) and each truncation is noticed, and the same bytes are
there when it is filled again; only damaged parts are asked for again; killed before any of its file operations, a
filling is resumed to the same bytes; what a power cut leaves of its small files does not stop it; a full disk is an
error before the first part; the inventory lists and clears, also what earlier versions kept; processes that fill many
small stores together, where one finishes while another still asks for parts, all end well.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_customclip._files import write_json
from hf_customclip.features import store as store_module
from hf_customclip.features.inventory import clear_stores, list_stores
from hf_customclip.features.shard_folder import MANIFEST, PLAN, ShardFolder
from hf_customclip.features.store import ORDER, FeatureStore, Stored, StoreSpec

COUNT, WIDTH = 160, 5  # three parts: 64, 64 and 32 rows
FEATURES = torch.arange(COUNT * WIDTH, dtype=torch.float32).reshape(COUNT, WIDTH)
ITEMS = np.random.default_rng(0).permutation(COUNT)  # in the order of the rows
SHARDS = [f"{part:05d}-0000.safetensors" for part in range(3)]
FILES = {*SHARDS, PLAN, MANIFEST, ".lock"}


def make_store(folder: Path, dtype: torch.dtype = torch.float32, **ingredients: str) -> FeatureStore:
    spec = StoreSpec(
        tower="vision",
        ingredients={"weights": "abc", **ingredients},
        about={"model": "resnet34", "data": "drawings"},
        count=COUNT,
        width=WIDTH,
        dtype=dtype,
    )
    return FeatureStore(folder, spec)


def fill(store: FeatureStore, unreadable: dict[int, str] | None = None) -> list[int]:
    """Begin, write what is missing and finish; the parts that were missing."""
    store.begin(lambda: ITEMS)
    written = []
    for part in store.claims():
        rows = store.spec.rows(part)
        bad = {item: why for item, why in (unreadable or {}).items() if item in ITEMS[rows]}
        store.write_part(part, FEATURES[rows], bad)
        written.append(part)
    assert store.finish()
    return written


def content(store: FeatureStore) -> dict[str, bytes]:
    return {name: (store.path / name).read_bytes() for name in (*SHARDS, PLAN, MANIFEST)}


def opened(store: FeatureStore) -> Stored:
    stored = store.open()
    assert stored is not None
    return stored


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert store.open() is None
    assert fill(store, {3: "b.jpg (the file is empty)"}) == [0, 1, 2]
    stored = opened(make_store(tmp_path))
    assert torch.equal(stored.features.to("cpu"), FEATURES) and len(stored.features) == COUNT
    assert stored.order.tolist() == np.argsort(ITEMS).tolist()
    assert stored.unreadable == {3: "b.jpg (the file is empty)"}
    assert {path.name for path in store.path.iterdir()} == FILES
    for name in SHARDS:  # mapped, not read
        assert str(store.path / name) in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_of_many_parts_in_any_order(tmp_path: Path, dtype: torch.dtype) -> None:
    store = make_store(tmp_path, dtype=dtype)
    fill(store)
    features, rng = opened(store).features, np.random.default_rng(0)
    for count in (0, 1, 2, 50, 300):
        rows = torch.from_numpy(rng.integers(0, COUNT, count))
        found = features[rows]
        assert found.dtype == dtype and torch.equal(found, FEATURES.to(dtype)[rows])
        found.zero_()  # a copy: what is stored stays
    assert torch.equal(features.to("cpu"), FEATURES.to(dtype))


def test_the_files_are_ordinary_safetensors(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    shards = [load_file(store.path / name) for name in SHARDS]
    assert torch.equal(torch.cat([shard["image_features"] for shard in shards]), FEATURES)
    assert torch.cat([shard["numbers"] for shard in shards]).tolist() == ITEMS.tolist()


def test_another_ingredient_is_another_store(tmp_path: Path) -> None:
    fill(make_store(tmp_path))
    assert make_store(tmp_path, weights="abd").open() is None
    assert make_store(tmp_path, precision="F32").open() is None


@pytest.mark.parametrize("name", [*SHARDS, MANIFEST])
def test_every_altered_byte_is_noticed_and_mended(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path)
    fill(store, {3: "b.jpg (the file is empty)"})
    right, file = content(store), store.path / name
    size, rng = len(right[name]), np.random.default_rng(0)
    for place in {0, 7, 20, size - 1, *rng.integers(0, size, 60).tolist()}:
        damaged = bytearray(right[name])
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        assert store.open() is None, place
        mended = fill(store, {3: "b.jpg (the file is empty)"})
        assert mended == ([0, 1, 2] if name == MANIFEST else [SHARDS.index(name)])
        assert content(store) == right


@pytest.mark.parametrize("keep", [0, 7, 100, 500, -2])
@pytest.mark.parametrize("name", [SHARDS[0], SHARDS[2], MANIFEST])
def test_a_truncated_file_is_noticed(tmp_path: Path, name: str, keep: int) -> None:
    store = make_store(tmp_path)
    fill(store)
    right = content(store)
    (store.path / name).write_bytes(right[name][:keep])
    assert store.open() is None
    fill(store)
    assert content(store) == right


def test_a_longer_or_missing_file_is_noticed(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    right = content(store)
    (store.path / SHARDS[1]).write_bytes(right[SHARDS[1]] + b"\0")
    assert store.open() is None
    assert fill(store) == [1]
    (store.path / SHARDS[1]).unlink()
    assert store.open() is None
    assert fill(store) == [1]
    assert content(store) == right


def test_a_part_altered_before_the_end_is_made_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.begin(lambda: ITEMS)
    for part in store.claims():
        store.write_part(part, FEATURES[store.spec.rows(part)], {})
    (store.path / SHARDS[1]).write_bytes(b"")
    assert store.finish() and store.open() is None
    assert fill(store) == [1]
    assert torch.equal(opened(store).features.to("cpu"), FEATURES)


@pytest.mark.parametrize("name", [PLAN, ORDER, "work/00001.json"])
@pytest.mark.parametrize("left", ["nothing", "zeros"])
def test_a_power_cut_leaves_small_files_broken(tmp_path: Path, name: str, left: str) -> None:
    store = make_store(tmp_path)
    store.begin(lambda: ITEMS)
    for part in (0, 1, 2):
        assert part in store.claims()
        store.write_part(part, FEATURES[store.spec.rows(part)], {})
    whole = (store.path / name).read_bytes()
    (store.path / name).write_bytes(b"" if left == "nothing" else bytes(len(whole)))
    again = make_store(tmp_path)
    again.begin(lambda: ITEMS)
    done = again.finish()
    assert done == (name != "work/00001.json")
    assert done or fill(again) == [1]
    assert torch.equal(opened(again).features.to("cpu"), FEATURES)
    assert (opened(again).order == np.argsort(ITEMS)).all()


def test_a_claimed_part_is_nobody_elses(tmp_path: Path) -> None:
    one, other = make_store(tmp_path), make_store(tmp_path)
    one.begin(lambda: ITEMS)
    other.begin(lambda: pytest.fail("begun already"))
    assert next(iter(one.claims())) == 0
    assert list(other.claims()) == [1, 2]
    assert not one.finish() and not other.finish()
    assert not make_store(tmp_path).has_claims()
    one.release_all()
    assert make_store(tmp_path).has_claims()


def fill_until(folder: Path, operation: int) -> None:
    """In a process of its own: die before the given file operation; the operations are counted from 0."""
    count = 0

    def dying(function):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            nonlocal count
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return function(*args, **kwargs)

        return call

    os.replace = dying(os.replace)
    shutil.rmtree = dying(shutil.rmtree)
    Path.write_bytes = dying(Path.write_bytes)  # type: ignore[method-assign]
    Path.unlink = dying(Path.unlink)  # type: ignore[method-assign]
    ShardFolder.write = dying(ShardFolder.write)  # type: ignore[method-assign]
    fill(make_store(folder))
    os._exit(0)


def test_killed_before_any_file_operation_it_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    fill(make_store(tmp_path / "whole"))
    right = content(make_store(tmp_path / "whole"))
    context = multiprocessing.get_context("fork")
    for operation in range(100):
        folder = tmp_path / str(operation)
        process = context.Process(target=fill_until, args=(folder, operation))
        process.start()
        process.join()
        store = make_store(folder)
        if store.open() is None:
            fill(store)
        assert content(store) == right
        assert {path.name for path in store.path.iterdir()} == FILES
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert operation > 10


def fill_many(folder: Path, rounds: int) -> None:
    for i in range(rounds):
        store = make_store(folder, round=str(i))
        while (stored := store.open()) is None:
            if not store.begin(lambda: ITEMS):
                continue
            assert store.order.tolist() == ITEMS.tolist()
            while not store.finish():
                for part in store.claims() if store.has_claims() else ():
                    store.write_part(part, FEATURES[store.spec.rows(part)], {})
        assert torch.equal(stored.features.to("cpu"), FEATURES)


def test_processes_in_step_do_not_trip_over_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together = [context.Process(target=fill_many, args=(tmp_path, 300)) for _ in range(4)]
    for process in together:
        process.start()
    for process in together:
        process.join()
    assert [process.exitcode for process in together] == [0] * 4


def test_too_little_space_is_an_error_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path)
    needed = store.spec.disk_bytes(COUNT)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"need 87\.7 KB, and .* has 87\.7 KB free.*feature_cache='never'"):
        store.begin(lambda: pytest.fail("this is work"))
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: usage._replace(free=needed))
    fill(store)


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={request.param}k", "none", str(mounted)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield mounted
    subprocess.run(["umount", "-l", str(mounted)], check=True)


@pytest.mark.parametrize("small_disk", [8, 64], indirect=True)
def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = make_store(small_disk)
    with pytest.raises(OSError, match="free") as error:
        store.begin(lambda: ITEMS)
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("small_disk", [200], indirect=True)
def test_a_disk_that_others_fill_meanwhile(small_disk: Path) -> None:
    store = make_store(small_disk)
    store.begin(lambda: ITEMS)
    part = next(store.claims())
    with pytest.raises(OSError), (small_disk / "other").open("wb", buffering=0) as other:
        while True:
            other.write(bytes(4096))
    with pytest.raises(OSError, match=r"cached features need .* free: make space") as error:
        store.write_part(part, FEATURES[store.spec.rows(part)], {})
    assert error.value.errno == errno.ENOSPC
    store.release_all()
    (small_disk / "other").unlink()
    assert fill(store) == [0, 1, 2]


def test_list_and_clear(tmp_path: Path) -> None:
    fill(make_store(tmp_path))
    make_store(tmp_path, weights="other").begin(lambda: ITEMS)
    (tmp_path / "somebody's.txt").write_text("keep me")
    (tmp_path / "vision-holiday").mkdir()
    stores = {info.key: info for info in list_stores(tmp_path)}
    assert len(stores) == 2
    done = stores[make_store(tmp_path).spec.key]
    assert done.complete and done.about == {"model": "resnet34", "data": "drawings"}
    assert (done.tower, done.count, done.width, done.dtype) == ("vision", COUNT, WIDTH, "F32")
    assert done.size >= FEATURES.nbytes
    begun = stores[make_store(tmp_path, weights="other").spec.key]
    assert not begun.complete and begun.about == done.about
    assert [gone.key for gone in clear_stores(tmp_path, done.key[:10])] == [done.key]
    with pytest.raises(ValueError, match="0 stores"):
        clear_stores(tmp_path, done.key)
    old = tmp_path / f"text-{'0' * 32}"  # of a version that kept all in one file
    old.mkdir()
    (old / "features.safetensors").write_bytes(bytes(1000))
    write_json(old / MANIFEST, {"format": 1, "about": done.about, "count": 10, "width": 5, "dtype": "F32"})
    (found,) = [info for info in list_stores(tmp_path) if info.tower == "text"]
    assert (found.about, found.count, found.complete) == (done.about, 10, True) and found.size > 1000
    assert len(clear_stores(tmp_path)) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"somebody's.txt", "vision-holiday"}
    assert list_stores(tmp_path / "nowhere") == []

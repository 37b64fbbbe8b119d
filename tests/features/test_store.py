"""The on-disk store, filled by hand with known numbers.

Pinned: what is written comes back, memory-mapped, in a file that safetensors itself reads; each byte altered
anywhere (features, order, header, manifest) and each truncation is noticed, and the same bytes are there
when it is filled again; only damaged parts are asked for again; killed before any of its file operations, a
filling is resumed to the same bytes; a full disk is an error before the first part; the inventory lists and
clears; processes that fill many small stores together, where one finishes while another still asks for
parts, all end well.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hf_customclip.features import store as store_module
from hf_customclip.features.inventory import clear_stores, list_stores
from hf_customclip.features.layout import Layout
from hf_customclip.features.store import FINISHED, MANIFEST, FeatureStore, StoreSpec

COUNT, WIDTH = 160, 5  # three parts: 64, 64 and 32 rows
FEATURES = torch.arange(COUNT * WIDTH, dtype=torch.float32).reshape(COUNT, WIDTH)
ORDER = np.arange(COUNT)[::-1].copy()


def make_store(folder: Path, **ingredients: str) -> FeatureStore:
    spec = StoreSpec(
        tower="vision",
        ingredients={"weights": "abc", **ingredients},
        about={"model": "resnet34", "data": "drawings"},
        layout=Layout(COUNT, WIDTH, torch.float32),
    )
    return FeatureStore(folder, spec)


def fill(store: FeatureStore, unreadable: dict[int, str] | None = None) -> list[int]:
    """Begin, write what is missing and finish; the parts that were missing."""
    store.begin(lambda: ORDER)
    written = []
    for part in store.claims():
        first, end = store.layout.span(part)
        bad = {item: why for item, why in (unreadable or {}).items() if first <= ORDER[item] < end}
        store.write_part(part, FEATURES[first:end], bad)
        written.append(part)
    assert store.finish()
    return written


def content(store: FeatureStore) -> dict[str, bytes]:
    return {name: (store.path / name).read_bytes() for name in (FINISHED, MANIFEST)}


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    assert store.open() is None
    assert fill(store, {3: "b.jpg (the file is empty)"}) == [0, 1, 2]
    stored = make_store(tmp_path).open()
    assert stored is not None
    assert torch.equal(stored.features, FEATURES) and stored.order.tolist() == ORDER.tolist()
    assert stored.unreadable == {3: "b.jpg (the file is empty)"}
    assert {path.name for path in store.path.iterdir()} <= {FINISHED, MANIFEST, ".lock"}
    assert str(stored.file) in Path("/proc/self/maps").read_text()  # mapped, not read


def test_the_file_is_ordinary_safetensors(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    tensors = load_file(store.path / FINISHED)
    assert torch.equal(tensors["features"], FEATURES) and tensors["order"].tolist() == ORDER.tolist()


def test_another_ingredient_is_another_store(tmp_path: Path) -> None:
    fill(make_store(tmp_path))
    assert make_store(tmp_path, weights="abd").open() is None
    assert make_store(tmp_path, precision="F32").open() is None


@pytest.mark.parametrize("name", [FINISHED, MANIFEST])
def test_every_altered_byte_is_noticed_and_mended(tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path)
    fill(store, {3: "b.jpg (the file is empty)"})
    right, file = content(store), store.path / name
    size, rng = len(right[name]), np.random.default_rng(0)
    places = {0, 7, 20, size - 1, *rng.integers(0, size, 40).tolist()}
    if name == FINISHED:  # the pages after the header's too, of which there are few among random ones
        places |= set(rng.integers(len(store.layout.header()), size, 40).tolist())
    for place in places:
        damaged = bytearray(right[name])
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        assert store.open() is None, place
        assert fill(store, {3: "b.jpg (the file is empty)"})
        assert content(store) == right


@pytest.mark.parametrize("keep", [0, 7, 4095, 4096, 4096 + 3 * WIDTH * 4, -1])
def test_a_truncated_file_is_noticed(tmp_path: Path, keep: int) -> None:
    store = make_store(tmp_path)
    fill(store)
    right = content(store)
    (store.path / FINISHED).write_bytes(right[FINISHED][:keep])
    assert store.open() is None
    fill(store)
    assert content(store) == right


def test_a_longer_or_missing_file_is_noticed(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    right = content(store)
    (store.path / FINISHED).write_bytes(right[FINISHED] + b"\0")
    assert store.open() is None
    fill(store)
    (store.path / FINISHED).unlink()
    assert store.open() is None
    fill(store)
    assert content(store) == right


def test_only_damaged_parts_are_made_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    fill(store)
    damaged = bytearray(content(store)[FINISHED])
    damaged[4096 + 80 * WIDTH * 4] ^= 1  # row 80 is in the second part
    (store.path / FINISHED).write_bytes(damaged)
    assert store.open() is None
    assert fill(store) == [1]


def test_a_part_altered_before_the_end_is_made_anew(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    store.begin(lambda: ORDER)
    for part in store.claims():
        store.write_part(part, FEATURES[slice(*store.layout.span(part))], {})
    store.layout.write_part(store.path / "features.partial", 1, torch.zeros(64, WIDTH))
    assert not store.finish()
    assert fill(store) == [1]


def test_a_claimed_part_is_nobody_elses(tmp_path: Path) -> None:
    one, other = make_store(tmp_path), make_store(tmp_path)
    one.begin(lambda: ORDER)
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
    os.posix_fallocate = dying(os.posix_fallocate)
    Layout.write_part = dying(Layout.write_part)  # type: ignore[method-assign]
    Layout.write_frame = dying(Layout.write_frame)  # type: ignore[method-assign]
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
        assert {path.name for path in store.path.iterdir()} <= {FINISHED, MANIFEST, ".lock"}
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert operation > 10


def fill_many(folder: Path, rounds: int) -> None:
    for i in range(rounds):
        store = make_store(folder, round=str(i))
        while (stored := store.open()) is None:
            store.begin(lambda: ORDER)
            assert store.order().tolist() == ORDER.tolist()
            while not store.finish():
                for part in store.claims() if store.has_claims() else ():
                    first, end = store.layout.span(part)
                    store.write_part(part, FEATURES[first:end], {})
        assert torch.equal(stored.features, FEATURES)


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
    needed = store.layout.disk_bytes
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"need 65\.9 KB, and .* has 65\.9 KB free.*feature_cache='never'"):
        store.begin(lambda: pytest.fail("this is work"))
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda path: usage._replace(free=needed))
    fill(store)


@pytest.mark.parametrize("size", [8, 64])
def test_a_disk_that_is_really_full(tmp_path: Path, size: int) -> None:
    mounted = tmp_path / "disk"
    mounted.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(mounted)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        store = make_store(mounted)
        (mounted / "other").write_bytes(bytes(8192 if size == 64 else 0))
        with pytest.raises(OSError, match="free") as error:
            store.begin(lambda: ORDER)
        assert error.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_list_and_clear(tmp_path: Path) -> None:
    fill(make_store(tmp_path))
    make_store(tmp_path, weights="other").begin(lambda: ORDER)
    (tmp_path / "somebody's.txt").write_text("keep me")
    (tmp_path / "vision-holiday").mkdir()
    stores = {info.key: info for info in list_stores(tmp_path)}
    assert len(stores) == 2
    done = stores[make_store(tmp_path).spec.key]
    assert done.complete and done.about == {"model": "resnet34", "data": "drawings"}
    assert (done.tower, done.count, done.width, done.dtype) == ("vision", COUNT, WIDTH, "F32")
    assert done.size >= make_store(tmp_path).layout.total_bytes
    begun = stores[make_store(tmp_path, weights="other").spec.key]
    assert not begun.complete and begun.about == done.about
    assert [gone.key for gone in clear_stores(tmp_path, done.key[:10])] == [done.key]
    with pytest.raises(ValueError, match="0 stores"):
        clear_stores(tmp_path, done.key)
    assert len(clear_stores(tmp_path)) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"somebody's.txt", "vision-holiday"}
    assert list_stores(tmp_path / "nowhere") == []

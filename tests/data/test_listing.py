"""Promises pinned here: listing opens no image, and its memory grows with the text alone.

20,000 files that are no images at all list fine with `verify` off; the memory it takes is a few hundred
bytes a row, and nothing of the files' own size.
"""

import os
import tracemalloc

import pytest

from hf_customclip.data import UnreadableImageError, load_image_text_dataset, load_with_report

ROWS = 20_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """20,000 links to one file of a megabyte that is no image, and two captions for each."""
    root = tmp_path_factory.mktemp("big")
    original = root / "0.jpg"
    original.write_bytes(b"x" * 2**20)
    for number in range(1, ROWS):
        os.link(original, root / f"{number}.jpg")
    with (root / "captions.txt").open("w") as file:
        file.write("image,caption\n")
        file.writelines(f"{n}.jpg,Caption {k} of image {n}\n" for n in range(ROWS) for k in range(2))
    return root


def test_nothing_is_opened(folder, monkeypatch):
    opened = []
    real = os.open
    monkeypatch.setattr(
        "builtins.open", lambda *a, _open=open, **k: (opened.append(str(a[0])), _open(*a, **k))[1]
    )
    monkeypatch.setattr(os, "open", lambda path, *a, **k: (opened.append(str(path)), real(path, *a, **k))[1])
    rows, report = load_with_report(folder, "all")
    assert len(rows) == ROWS and report.captions_out == 2 * ROWS and not report.problems
    assert not [name for name in opened if name.endswith(".jpg")]
    monkeypatch.undo()
    with pytest.raises(Exception, match="cannot identify image file"):
        rows[0]["image"]


@pytest.mark.slow
def test_memory_is_bounded(folder):
    load_image_text_dataset(folder)  # imports
    tracemalloc.start()
    splits = load_image_text_dataset(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(map(len, splits.values())) == ROWS
    assert peak < 3000 * ROWS  # the files' own bytes would be a million times as many
    assert splits["train"].data.nbytes < 300 * ROWS


def test_an_unreadable_image_is_named_when_it_is_used(folder):
    from hf_customclip.data.pairs import TrainingDataset

    pairs = TrainingDataset(load_image_text_dataset(folder, "train"), batch_of="pairs")
    with pytest.raises(UnreadableImageError, match=r"big.*\.jpg"):
        pairs[0]

"""Pins: a run that is killed (SIGKILL) is taken up again, and what it had embedded is not embedded twice; an index
that is being brought up to date stays whole through it; two processes share the work and write one index, equal to
that of one process, and name what they cannot read."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from interpreters import Python, code_of, run_processes, run_python
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import ImageIndex

HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent), "ACCELERATE_USE_CPU": "true"}
COUNT = 32


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number, row in enumerate(tiny_dataset(COUNT)):
        row["image"].save(folder / f"{number:02}.png")
    return folder


RUN = code_of(HERE / "runs.py")


def kill_after_shards(images, directory, count):
    """SIGKILL as soon as so many shards are there."""
    running = Python(RUN, images, directory, 0.3, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while len(list(directory.glob("embedding-*/*.arrow"))) < count:
        assert running.is_running() and time.monotonic() < deadline
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


def finish(images, directory):
    done = run_python(RUN, images, directory, 0.0, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads((directory.parent / "seen-0").read_text())


@pytest.mark.slow
def test_a_killed_run_is_taken_up_again(images, tmp_path):
    directory = tmp_path / "index"
    kill_after_shards(images, directory, 3)
    assert not (directory / "index.json").exists()
    done = 4 * len(list(directory.glob("embedding-*/*.arrow")))
    assert 12 <= done < COUNT
    assert finish(images, directory) == {"seen": COUNT - done, "count": COUNT, "unreadable": []}
    assert not list(directory.glob("embedding-*"))
    alone = ImageIndex.build(tiny_model(), tiny_processor(), images)
    assert_equal(ImageIndex.load(directory, tiny_model(), tiny_processor()), alone)

    # The index that is there stays whole while the next run is killed, and after.
    for number, row in enumerate(tiny_dataset(2 * COUNT).select(range(COUNT, 2 * COUNT))):
        row["image"].save(images / f"new-{number:02}.png")
    (images / "00.png").unlink()
    kill_after_shards(images, directory, 2)
    assert len(ImageIndex.load(directory, tiny_model(), tiny_processor())) == COUNT
    report = finish(images, directory)
    assert report["count"] == 2 * COUNT - 1 and report["seen"] <= COUNT - 8


@pytest.mark.slow
def test_two_processes_share_the_work(images, tmp_path):
    (images / "broken.png").write_bytes(b"x")
    (images / "99.jpg").touch()
    directory = tmp_path / "index"
    for done in run_processes(RUN, images, directory, 0.0, env=ENVIRONMENT):
        assert done.returncode == 0, done.stderr
    reports = [json.loads((tmp_path / f"seen-{rank}").read_text()) for rank in range(2)]
    assert sorted(report["seen"] for report in reports)[0] >= COUNT // 2 - 2
    assert sum(report["seen"] for report in reports) == COUNT
    for report in reports:
        assert report["count"] == COUNT and report["unreadable"] == ["99.jpg", "broken.png"]
    assert_equal(
        ImageIndex.load(directory, tiny_model(), tiny_processor()),
        ImageIndex.build(tiny_model(), tiny_processor(), images),
    )


def test_several_processes_need_a_place_to_share(images):
    code = (
        "from tiny import *; from hf_customclip import ImageIndex\n"
        f"ImageIndex.build(tiny_model(), tiny_processor(), {str(images)!r})"
    )
    for done in run_processes(code, env=ENVIRONMENT):
        assert done.returncode != 0
        assert "on several processes, name a directory" in done.stderr


def assert_equal(one, other):
    assert sorted(one.ids) == sorted(other.ids)
    vectors = [index.rows.vectors_of(sorted(index.ids)) for index in (one, other)]
    assert vectors[0] == pytest.approx(
        vectors[1], abs=2e-3
    )  # batches of other sizes differ in their last bits
    assert np.isfinite(vectors[0]).all()

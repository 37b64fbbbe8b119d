"""Pins: a run that is killed (SIGKILL) in any of its stages leaves an index that can be searched, is taken up
again, and what it had saved is not embedded twice; nothing is lost and nothing doubled. Two processes that share
the work write one index, equal to that of one process, and name what they cannot read; so do two that know nothing
of each other."""

import json
import os
import signal
from pathlib import Path

import pytest
from interpreters import Python, code_of, run_processes, run_python
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import ImageIndex

pytest.importorskip("lancedb")

HERE = Path(__file__).parent
PATH = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PATH, "ACCELERATE_USE_CPU": "true"}
COUNT = 24
RUN = code_of(HERE / "runs.py")


@pytest.fixture
def images(tmp_path, write_images):
    write_images(tmp_path / "images", range(COUNT))
    return tmp_path / "images"


def report_of(directory, rank=0):
    return json.loads((directory.parent / f"seen-{directory.name}-{rank}").read_text())


def finish(images, directory):
    done = run_python(RUN, images, directory, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return report_of(directory)


def opened(directory):
    return ImageIndex.load(directory, tiny_model(), tiny_processor())


def assert_equal(one, other):
    assert sorted(one.ids) == sorted(other.ids) and len(one) == len(set(one.ids))
    image = tiny_dataset(3)[2]["image"]
    found, right = (
        {result.id: result.score for result in index.search(image, 100)} for index in (one, other)
    )
    # Batches of other sizes differ in their last bits.
    assert found == {name: pytest.approx(score, abs=3e-3) for name, score in right.items()}


@pytest.mark.slow
def test_killed_in_any_stage_nothing_is_lost_or_doubled(images, tmp_path):
    directory = tmp_path / "index"
    changes = [("embed", "8", "0"), ("put", "1", "0.01"), ("remove", "1", "0"), ("settle", "1", "0.02")]
    for step, (stage, number, seconds) in enumerate(changes):
        killed = run_python(RUN, images, directory, stage, number, seconds, env=ENVIRONMENT)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if stage == "embed":
            saved = len(opened(directory))
            assert 4 <= saved < COUNT
            assert finish(images, directory) == {"seen": COUNT - saved, "count": COUNT, "unreadable": []}
        names = opened(directory).ids
        assert len(names) == len(set(names)) and len(names) >= COUNT - 1
        # Something to do for the next run: an image goes, and one comes.
        images.joinpath(f"{step}.png").unlink()
        tiny_dataset(64)[40 + step]["image"].save(images / f"new-{step}.png")
    assert finish(images, directory)["count"] == COUNT
    assert_equal(opened(directory), ImageIndex.build(tiny_model(), tiny_processor(), images))


@pytest.mark.slow
def test_two_processes_share_the_work(images, tmp_path):
    (images / "broken.png").write_bytes(b"x")
    (images / "99.jpg").touch()
    directory = tmp_path / "index"
    for done in run_processes(RUN, images, directory, env=ENVIRONMENT):
        assert done.returncode == 0, done.stderr
    reports = [report_of(directory, rank) for rank in range(2)]
    assert sorted(report["seen"] for report in reports)[0] >= COUNT // 2 - 2
    assert sum(report["seen"] for report in reports) == COUNT
    for report in reports:
        assert report["count"] == COUNT and report["unreadable"] == ["99.jpg", "broken.png"]
    assert_equal(opened(directory), ImageIndex.build(tiny_model(), tiny_processor(), images))


@pytest.mark.slow
def test_two_runs_that_know_nothing_of_each_other(images, tmp_path):
    directory = tmp_path / "index"
    runs = [Python(RUN, images, directory, env=ENVIRONMENT) for _ in range(2)]
    for run in runs:
        assert run.wait() == 0, run.read("stderr")
    assert_equal(opened(directory), ImageIndex.build(tiny_model(), tiny_processor(), images))


def test_several_processes_need_a_place_to_share(images):
    code = (
        "from tiny import *; from hf_customclip import ImageIndex\n"
        f"ImageIndex.build(tiny_model(), tiny_processor(), {str(images)!r})"
    )
    for done in run_processes(code, env=ENVIRONMENT):
        assert done.returncode != 0
        assert "on several processes, name a directory" in done.stderr

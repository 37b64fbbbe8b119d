"""A folder as a reader has it who follows the pages: the sample (a cut of it), its towers (the smaller one for texts),
a model trained on it, a folder of images with titles, and the examples."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from datasets import Image, load_dataset
from filelock import FileLock
from interpreters import COMMAND, run_python, write_commands

ROOT = Path(__file__).resolve().parents[2]
CUT = {"train": 96, "validation": 24, "test": 24}


@pytest.fixture(scope="session")
def workplace(tmp_path_factory):
    """Made once for all worker processes of a test run."""
    folder = tmp_path_factory.mktemp("page")
    shared = Path((os.environ.get("PYTEST_XDIST_TESTRUNUID", "") and folder.parent.parent) or folder.parent)
    ready = shared / "workplace"
    with FileLock(shared / "workplace.lock"):
        if not (ready / "done").exists():
            make(ready)
    return ready


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    write_commands(tmp_path / "bin")
    places = (tmp_path / "bin", Path(sys.executable).parent, os.environ["PATH"])
    monkeypatch.setenv("PATH", os.pathsep.join(map(str, places)))
    monkeypatch.setenv("MPLBACKEND", "agg")


def make(folder):
    """Cut the sample, train on it, lay out a folder of images."""
    shutil.copytree(
        ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("data", "__pycache__")
    )
    sample = load_dataset(str(ROOT / "examples" / "sample"))
    for split, rows in CUT.items():
        file = folder / "examples" / "sample" / "data" / f"{split}-00000-of-00001.parquet"
        file.parent.mkdir(exist_ok=True)
        sample[split].select(range(rows)).to_parquet(str(file))
    own = folder / "my-images"
    own.mkdir()
    rows = sample["train"].select(range(60)).cast_column("image", Image(decode=False))
    with (own / "metadata.jsonl").open("w", encoding="utf-8") as lines:
        for row in rows:
            (own / f"{row['image_id']}.webp").write_bytes(row["image"]["bytes"])
            line = {
                "file_name": f"{row['image_id']}.webp",
                "title": row["captions"][0],
                "text": row["captions"][1],
            }
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")
    sys.path.insert(0, str(ROOT / "examples"))
    from sample.towers import ENGLISH, MULTILINGUAL, build_towers

    for text in (None, ENGLISH):  # the first one is the multilingual one, where there is a wheel of it
        build_towers(folder / "outputs" / "sample-towers", text)
    config = folder / "examples" / "configs" / "sample.yaml"
    config.write_text(config.read_text().replace(MULTILINGUAL, ENGLISH))
    done = run_python(COMMAND, "train", "--config", config, "training.num_train_epochs=1", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder / "done").touch()


@pytest.fixture
def hub_environment():
    """Starts the loopback Hub and points the clients of this test's commands at it."""
    sys.path.insert(0, str(ROOT / "tests"))
    from hub.server import LocalHub

    with LocalHub() as running:
        running.store.add_user("hf_alice_write", "alice")

        def point(monkeypatch):
            for name, value in {
                "HF_ENDPOINT": running.endpoint,
                "HF_TOKEN": "hf_alice_write",
                "HF_HUB_DISABLE_XET": "1",
            }.items():
                monkeypatch.setenv(name, value)
            monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

        yield point

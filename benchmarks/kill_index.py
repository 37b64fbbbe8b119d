"""Kill indexing with SIGKILL in every stage of it, take it up again, and compare with an index made in one go.

python benchmarks/kill_index.py --kills 20

Before each run some images are deleted, some changed and some added; the run kills itself a random moment after it
has come to a stage: embedding, writing rows, dropping rows, compacting, or training approximate search. What is then
in the index must be each image once; in the end, after a run that nobody kills, exactly the folder, with the vectors of
a fresh index. A kill that comes after the run's end does not count and is tried again. Exits with 1 on a difference.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from PIL import Image  # noqa: E402
from tiny import tiny_model, tiny_processor  # noqa: E402

from hf_customclip import ImageIndex  # noqa: E402

IMAGES, CHANGED, EXACT_ROWS = 1900, 12, 1850
STAGES = ("embed", "put", "remove", "settle", "train")


def draw(file: Path, chance: random.Random) -> None:
    """An image of 16 x 16 random pixels."""
    Image.frombytes("RGB", (16, 16), chance.randbytes(768)).save(file)


def change(folder: Path, chance: random.Random) -> None:
    """Delete some images, write over some, add as many as are gone."""
    names = sorted(folder.iterdir())
    for name in chance.sample(names, CHANGED):
        name.unlink()
    for name in chance.sample(sorted(folder.iterdir()), CHANGED):
        draw(name, chance)
    for _ in range(CHANGED):
        draw(folder / f"{chance.randrange(10**9):09}.png", chance)


def run(folder: Path, index: Path, *kill: object) -> int:
    """The exit code of a process that indexes, and kills itself where it is told to."""
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "EXACT_ROWS": str(EXACT_ROWS)}
    command = [sys.executable, ROOT / "tests" / "search" / "runs.py", folder, index, *kill]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(done.stderr)
    return done.returncode


def vectors(index: ImageIndex) -> dict[str, np.ndarray]:
    """Of every row by its id; an AssertionError where an id is there twice."""
    rows = [row for batch in index.table.batches() for row in batch.to_pylist()]
    assert len({row["id"] for row in rows}) == len(rows), "an image is there twice"
    return {row["id"]: np.array(row["vector"]) for row in rows}


def main() -> None:
    """Kill, compare, print a line for each stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    model, processor = tiny_model(), tiny_processor()
    killed: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        folder, index = Path(place) / "images", Path(place) / "index"
        folder.mkdir()
        for number in range(IMAGES):
            draw(folder / f"{number:04}.png", chance)
        while killed.total() < options.kills:
            stage = STAGES[killed.total() % len(STAGES)]
            times = {"embed": 500, "put": 5}.get(stage, 1)
            if run(folder, index, stage, chance.randint(1, times), round(chance.uniform(0, 0.1), 3)):
                killed[stage] += 1
                left = len(vectors(ImageIndex.load(index, model, processor)))
                print(f"kill {killed.total()} in {stage}: {left} images in the index", flush=True)
            if (
                stage == "train"
            ):  # what it trains is wanted only once, on an index that has grown past exact search
                shutil.rmtree(index)
            change(folder, chance)
        assert run(folder, index) == 0
        found = vectors(ImageIndex.load(index, model, processor))
        right = vectors(ImageIndex.build(model, processor, folder))
    same = found.keys() == right.keys() and all(np.allclose(found[n], right[n], atol=3e-3) for n in right)
    print(
        f"{dict(killed)}; in the end {len(found)} images, {'equal to' if same else 'DIFFERENT FROM'} a fresh index"
    )
    sys.exit(not same)


if __name__ == "__main__":
    main()

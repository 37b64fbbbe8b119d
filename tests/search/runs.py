"""What the tests of kills and processes run: `python runs.py IMAGES DIRECTORY [STAGE NUMBER SECONDS]`.

With a stage (`embed`, `put`, `remove`, `settle`, `train`), the process kills itself (SIGKILL) so many seconds after
it has come to that stage for the NUMBERth time.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from tiny import tiny_model, tiny_processor

from hf_customclip import ImageIndex
from hf_customclip.search import index as index_module
from hf_customclip.search import table as table_module
from hf_customclip.search.table import VectorTable


def main(images: Path, directory: str, report: Path, stage: str, number: int, seconds: float) -> None:
    """Index a folder, four images at a time; what this process has embedded goes to `report`-<rank>."""
    index_module.SAVED_IMAGES = 4
    model, seen, count = tiny_model(), [0], [0]

    def kill_soon() -> None:
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    def reach(name: str) -> None:
        count[0] += name == stage
        if name == stage and count[0] == number:
            threading.Thread(target=kill_soon).start()

    def note(module, args, kwargs):
        reach("embed")
        seen[0] += len(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0])

    def noting(name, function):
        def call(*args):
            reach(name)
            return function(*args)

        return call

    model.vision_model.register_forward_pre_hook(note, with_kwargs=True)
    for name in ("put", "remove", "settle"):
        setattr(VectorTable, name, noting(name, getattr(VectorTable, name)))
    table_module.train_approximate = noting("train", table_module.train_approximate)
    table_module.EXACT_ROWS = int(os.environ.get("EXACT_ROWS", 50_000))
    index = ImageIndex.build(model, tiny_processor(), images, directory=directory, batch_size=2)
    found = {"seen": seen[0], "count": len(index), "unreadable": sorted(index.changes.unreadable)}
    report.with_name(f"{report.name}-{os.environ.get('RANK', 0)}").write_text(json.dumps(found))


if __name__ == "__main__":
    place = Path(sys.argv[2])
    report, rest = place.parent / f"seen-{place.name}", [*sys.argv[3:], "", "0", "0"]
    main(Path(sys.argv[1]), sys.argv[2], report, rest[0], int(rest[1]), float(rest[2]))

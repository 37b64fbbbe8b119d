"""What the tests of kills and processes run: `python runs.py IMAGES DIRECTORY [SECONDS_A_BATCH]`."""

import json
import os
import sys
import time
from pathlib import Path

from tiny import tiny_model, tiny_processor

from hf_customclip import ImageIndex
from hf_customclip.search import embedding


def main(images: Path, directory: Path, seconds: float) -> None:
    """Index a folder in shards of four images; what this process has embedded goes to `seen-<rank>`."""
    embedding.SHARD_IMAGES = 4
    model, seen = tiny_model(), [0]

    def note(module, args, kwargs):
        time.sleep(seconds)
        seen[0] += len(kwargs["pixel_values"] if "pixel_values" in kwargs else args[0])

    model.vision_model.register_forward_pre_hook(note, with_kwargs=True)
    index = ImageIndex.build(model, tiny_processor(), images, directory=directory, batch_size=2)
    report = {"seen": seen[0], "count": len(index), "unreadable": sorted(index.changes.unreadable)}
    (directory.parent / f"seen-{os.environ.get('RANK', 0)}").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))

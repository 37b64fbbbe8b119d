"""Train from a configuration file; without one, on the bundled sample, with no network at all.

accelerate launch examples/train.py
accelerate launch examples/train.py --config examples/configs/flickr30k.yaml
"""

import sys
from pathlib import Path

from sample.towers import build_towers

from hf_customclip.cli import main

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--config" not in arguments:
        build_towers(HERE.parent / "outputs" / "sample-towers")
        arguments = ["--config", str(HERE / "configs" / "sample.yaml"), *arguments]
    main(["train", *arguments])

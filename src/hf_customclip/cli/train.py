"""`hf-customclip train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .offline import stay_offline_if_unreachable
from .output import say_next

if TYPE_CHECKING:
    from ..training.config import TrainConfig

HELP = """Train a model as a configuration file says.

\b
    hf-customclip train --config examples/configs/flickr30k.yaml
    hf-customclip train --config my.yaml training.seed=1 training.num_train_epochs=5

The same on several processes: accelerate launch examples/train.py --config FILE
"""


def train(
    config: Annotated[Path, typer.Option(help="The configuration, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Values that win: section.key=value.")] = None,
) -> None:
    """Train, save, and print recalls on data held out."""
    from ..training.config import check_paths, load_config

    loaded = load_config(config, overrides)
    check_paths(loaded)
    offline = _needs_hub(loaded) and stay_offline_if_unreachable()
    # Seconds of imports, so only after the configuration has been found to be right.
    from ..training.run import run_training

    try:
        run_training(loaded)
    except (ValueError, OSError) as error:
        if not offline or not (isinstance(error, OSError) or "Hub" in str(error)):
            raise  # a mistake in the configuration is no matter of the Hub
        raise ValueError(
            f"{error} The bundled sample needs no Hub: accelerate launch examples/train.py"
        ) from error
    if os.environ.get("RANK", "0") == "0":  # one of several processes says it
        folder = loaded.training.get("output_dir", "trainer_output")
        say_next("hf-customclip", "index", folder, "IMAGES", "INDEX")


def _needs_hub(config: TrainConfig) -> bool:
    sources = config.model["vision"], config.model["text"], config.data["source"]
    return not all(Path(source).exists() for source in sources)

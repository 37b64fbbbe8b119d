"""Bytes and seconds of a heads-only save beside a full one, at the size of the default recipe.

    python benchmarks/heads_only.py [FOLDER]

resnet34 and DistilBERT-multilingual shapes with random weights; both are written to FOLDER (default: a
temporary one), three times each, and the median is shown. The first heads-only save of a run also hashes the
towers, once.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from transformers import DistilBertConfig

from hf_customclip import CustomClipConfig, CustomClipModel, TorchvisionBackboneConfig
from hf_customclip.modeling.heads_only_custom_clip import save_heads_only

REPEATS = 3


def build_model() -> CustomClipModel:
    """The default recipe's model, untrained."""
    config = CustomClipConfig.from_vision_text_configs(
        TorchvisionBackboneConfig(architecture="resnet34"),
        DistilBertConfig(vocab_size=119547, sinusoidal_pos_embds=False),
        vision_name="resnet34",
        text_name="distilbert/distilbert-base-multilingual-cased",
    )
    return CustomClipModel(config)


def seconds(action: Callable[[], object]) -> float:
    """How long `action` takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def megabytes(folder: Path) -> float:
    """Size of all files in `folder`, in MB (10^6 bytes)."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e6


def main(folder: Path) -> None:
    """Print the table."""
    model = build_model()
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, heads "
          f"{sum(p.numel() for p in model.parameters() if p.requires_grad):,}\n")  # fmt: skip
    first = seconds(lambda: save_heads_only(model, folder / "heads"))
    rows = {
        "full": (folder / "full", lambda: model.save_pretrained(folder / "full")),
        "heads only": (folder / "heads", lambda: save_heads_only(model, folder / "heads")),
    }
    print(f"{'save':<26}{'MB':>10}{'seconds':>10}")
    for name, (target, save) in rows.items():
        median = statistics.median(seconds(save) for _ in range(REPEATS))
        print(f"{name:<26}{megabytes(target):>10.1f}{median:>10.3f}")
    print(f"{'heads only, the first':<26}{'':>10}{first:>10.3f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))

"""What the precision of the feature pass does to recalls: the bundled sample, pretrained towers, five seeds.

    python benchmarks/feature_precision.py [--through-the-towers] [--output benchmarks/feature_precision.md]

bfloat16 is computed in float32 with every result rounded to bfloat16, as hardware that has it does; without
such hardware the real thing takes hours. `--through-the-towers` adds a run without cached features (minutes).
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tr
from datasets import load_dataset
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from hf_customclip import (
    CustomClipModel,
    CustomClipProcessor,
    CustomClipTrainer,
    CustomClipTrainingArguments,
)
from hf_customclip.features import cache
from hf_customclip.features.tower_pass import TowerPass

SAMPLE = Path(__file__).resolve().parents[1] / "examples" / "sample"
SEEDS = range(5)
METRICS = ("t2i_recall@1", "t2i_recall@5", "t2i_recall@10", "i2t_recall@10", "rsum")


class Rounding(TorchDispatchMode):
    """Rounds what every operation gives to bfloat16."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))

        def rounded(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.dtype != torch.float32:
                return tensor
            # In place, so that what shares the memory (views, results of in-place operations) is rounded too.
            return tensor.copy_(tensor.bfloat16()) if not tensor._is_view() else tensor

        return tree_map_only(torch.Tensor, rounded, result)


class RoundedPass(TowerPass):
    """The pass as in bfloat16."""

    def _ready(self, module: nn.Module) -> nn.Module:
        ready = copy.deepcopy(super()._ready(module))
        for tensor in [*ready.parameters(), *ready.buffers()]:
            if tensor.is_floating_point():
                tensor.data = tensor.data.bfloat16().float()
        return ready

    def __call__(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with Rounding():
            return super().__call__({name: value + 0 for name, value in inputs.items()})


def train(
    folder: Path, towers: tuple[Path, Path], seed: int, features: str, mode: str = "always", epochs: int = 10
) -> dict[str, float]:
    """Recalls on the test split; `features` names the folder of the kept ones."""
    tr.set_seed(seed)
    data = load_dataset(str(SAMPLE))
    names = [str(tower) for tower in towers]
    trainer = CustomClipTrainer(
        model=CustomClipModel.from_vision_text_pretrained(*names, text_pooling="mean"),
        args=CustomClipTrainingArguments(
            output_dir=str(folder / "out"),
            feature_cache=mode,
            feature_cache_dir=str(folder / features),
            feature_precision="float32",
            num_train_epochs=epochs,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            weight_decay=0.1,
            seed=seed,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=1000,
        ),
        train_dataset=data["train"],
        processing_class=CustomClipProcessor.from_vision_text_pretrained(*names),
    )
    trainer.remove_callback(tr.PrinterCallback)
    trainer.train()
    metrics = trainer.evaluate(data["test"])
    return {name: metrics[f"eval_{name}"] for name in METRICS}


def row(name: str, runs: list[dict[str, float]]) -> str:
    cells = [name]
    for metric in METRICS:
        values, digits = [run[metric] for run in runs], 1 if metric == "rsum" else 3
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        cells.append(f"{np.mean(values):.{digits}f}{spread}")
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--through-the-towers", action="store_true")
    parser.add_argument("--output", type=Path, help="also write the table there, as Markdown")
    args = parser.parse_args()
    sys.path.insert(0, str(SAMPLE.parent))
    from sample.towers import build_towers

    tr.utils.logging.set_verbosity_error()
    lines = ["| features | " + " | ".join(METRICS) + " |", "| --- |" + " ---: |" * len(METRICS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        towers = build_towers(folder / "towers")
        lines.append(row("float32", [train(folder, towers, seed, "float32") for seed in SEEDS]))
        print(lines[-1], flush=True)
        if args.through_the_towers:
            for name, mode in (("float32", "always"), ("none kept", "never")):
                run = train(folder, towers, 0, "float32", mode, epochs=3)
                lines.append(row(f"{name}, one seed, 3 epochs", [run]))
        cache.TowerPass = RoundedPass
        lines.append(row("bfloat16", [train(folder, towers, seed, "bfloat16") for seed in SEEDS]))
    text = "\n".join(lines) + "\n"
    print(text)
    if args.output:
        args.output.write_text(text)


if __name__ == "__main__":
    main()

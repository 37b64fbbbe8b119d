"""Two processes, as `accelerate launch` starts them.

Pinned: they share out the pass and write one store, with the bytes of a run alone; training on it gives the
losses of training through the towers; a further run computes nothing.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from interpreters import code_of, run_processes

HERE = Path(__file__)
SETTINGS = {
    "feature_precision": "float32",
    "per_device_train_batch_size": 16,
    "num_train_epochs": 2,
    "batch_of": "pairs",
    "head_init": None,  # computed on cached features, which one of the runs has not
    "logging_steps": 1,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}


def stored(folder: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in folder.glob("*/*.safetensors")}


def train(folder: Path, mode: str) -> dict[str, Any]:
    """Losses and recalls, and how many images and captions went through the towers of this process."""
    from tiny import tiny_dataset, tiny_model, tiny_processor

    from hf_customclip import CustomClipTrainer, CustomClipTrainingArguments

    model, data, seen = tiny_model(), tiny_dataset(160, captions=1), [0, 0]
    for place, tower in enumerate((model.vision_model, model.text_model)):

        def note(module: Any, args: Any, kwargs: dict[str, Any], place: int = place) -> None:
            seen[place] += len(next(iter(kwargs.values())))
            wait_for_everybody(folder)

        tower.register_forward_pre_hook(note, with_kwargs=True)
    trainer = CustomClipTrainer(
        model=model,
        args=CustomClipTrainingArguments(
            output_dir=str(folder / "out"), feature_cache=mode, feature_cache_dir=str(folder), **SETTINGS
        ),
        train_dataset=data.select(range(128)),
        eval_dataset=data.select(range(128, 160)),
        processing_class=tiny_processor(),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": losses, "rsum": trainer.evaluate()["eval_rsum"], "seen": seen}


def wait_for_everybody(folder: Path) -> None:
    """With its first batch in hand, until the others have theirs: or one process may be done before another starts."""
    rank, count = (
        int(os.environ.get(name, default)) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))
    )
    (folder / f"{rank}.started").touch()
    deadline = time.monotonic() + 60
    while not all((folder / f"{each}.started").exists() for each in range(count)):
        assert time.monotonic() < deadline, "another process got nothing to do"
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1]), "OMP_NUM_THREADS": "1"}
    for done in run_processes(code_of(HERE), tmp_path, env=environment):
        assert done.returncode == 0, done.stderr
    kept, through, again = zip(
        *(json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)), strict=True
    )
    assert kept[0]["losses"] == pytest.approx(through[0]["losses"], rel=1e-5)
    assert kept[0]["rsum"] == kept[1]["rsum"] == pytest.approx(through[0]["rsum"])
    # 128 images and captions of training, 32 of evaluation, each of them once
    assert [sum(seen) for seen in zip(kept[0]["seen"], kept[1]["seen"], strict=True)] == [160, 160]
    assert sum(kept[0]["seen"]) > 0 and sum(kept[1]["seen"]) > 0
    assert again[0]["seen"] == again[1]["seen"] == [0, 0]
    assert again[0]["losses"] == kept[0]["losses"]
    train(tmp_path / "alone", "always")
    assert stored(tmp_path / "alone") == stored(tmp_path) and len(stored(tmp_path)) == 4


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    reports = [train(folder, mode) for mode in ("always", "never", "always")]
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(reports))

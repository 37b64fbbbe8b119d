"""Checkpoints in the middle of training without the frozen towers: they cost next to nothing to save."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..modeling.heads_only_custom_clip import HEADS_FILE, TOWERS, heads_only_file, load_heads


class HeadsOnlyCheckpointsMixin:
    """For a `Trainer`: `checkpoint-*` folders hold the heads alone where both towers are frozen and named.

    Off with `args.heads_only_checkpoints=False`. Resuming and loading the best model read either kind.
    """

    args: Any
    model: Any
    state: Any
    accelerator: Any
    processing_class: Any

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        is_checkpoint = output_dir is not None and Path(output_dir).name.startswith(PREFIX_CHECKPOINT_DIR)
        if not (is_checkpoint and self.args.heads_only_checkpoints and self._can_leave_out_towers(model)):
            return super()._save(output_dir, state_dict)  # type: ignore[misc]
        model.save_pretrained(output_dir, heads_only=True, state_dict=state_dict)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(output_dir)

    def _can_leave_out_towers(self, model: Any) -> bool:
        # Weights in shards are saved and loaded by their own machinery.
        if getattr(self, "is_fsdp_enabled", False) or getattr(self, "is_deepspeed_enabled", False):
            return False
        towers = [getattr(model, f"{tower}_model", None) for tower in TOWERS]
        frozen = all(tower and not any(p.requires_grad for p in tower.parameters()) for tower in towers)
        return frozen and all(getattr(model.config, f"{tower}_name", None) for tower in TOWERS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        heads_file = heads_only_file(resume_from_checkpoint)
        if heads_file is None:
            return super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]
        load_heads(self.accelerator.unwrap_model(model or self.model), heads_file)

    def _load_best_model(self) -> None:
        folder = self.state.best_model_checkpoint
        if (Path(folder) / HEADS_FILE).is_file():
            return self._load_from_checkpoint(folder)
        return super()._load_best_model()  # type: ignore[misc]

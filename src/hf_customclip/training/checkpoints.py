"""Checkpoints that are there whole or not at all, so that a killed run resumes from the newest one."""

from __future__ import annotations

import copy
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

from ..modeling.modeling_custom_clip import CustomClipModel
from .finite import check_weights

logger = logging.get_logger(__name__)

# No name that Trainer's search for checkpoints would find.
UNFINISHED = ".unfinished"


class WholeCheckpointsMixin:
    """For a `Trainer`: a checkpoint is written aside and gets its name in one step, when it is complete.

    `train(resume_from_checkpoint=True)` takes the newest, and starts from the beginning where there is none.
    """

    args: Any
    model: Any
    state: Any
    accelerator: Any

    _writing: bool = False

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`; `True` is also allowed before there is a first checkpoint."""
        folder = Path(self.args.output_dir)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = get_last_checkpoint(folder) if folder.is_dir() else None
            if resume_from_checkpoint is None:
                logger.warning(f"{folder} holds no checkpoint to resume from: training starts at step 0.")
        if not resume_from_checkpoint:
            self._start_heads()
        self.accelerator.wait_for_everyone()
        if self.args.local_process_index == 0:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        return super().train(resume_from_checkpoint, *args, **kwargs)  # type: ignore[misc]

    def _start_heads(self) -> None:
        """What comes before the first step of a run, and of none that is resumed."""

    def _get_output_dir(self, trial: Any) -> str:
        folder: str = super()._get_output_dir(trial)  # type: ignore[misc]
        return os.path.join(folder, UNFINISHED) if self._writing else folder

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        check_weights(self.model, self.state.global_step)
        self._writing = True
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
            unfinished = Path(self._get_output_dir(trial))
        finally:
            self._writing = False
        self.accelerator.wait_for_everyone()
        folder = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        self._correct_best(unfinished / name, folder / name)
        if self.args.local_process_index == 0:
            _put_in_place(unfinished / name, folder / name)
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._load_by_name(resume_from_checkpoint, model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)  # type: ignore[misc]

    def _load_best_model(self) -> None:
        if not self._load_by_name(self.state.best_model_checkpoint):
            super()._load_best_model()  # type: ignore[misc]

    def _load_by_name(self, folder: str, model: Any = None) -> bool:
        """Load a whole checkpoint through `from_pretrained`; whether it was one.

        Trainer puts a file's tensors in by their names there. Those are some towers' old names, a ViT's for
        example, and with no more than a warning the tower would stay as it is.
        """
        model = self.accelerator.unwrap_model(self.model if model is None else model)
        in_parts = getattr(self, "is_fsdp_enabled", False) or getattr(self, "is_deepspeed_enabled", False)
        if in_parts or not isinstance(model, CustomClipModel):
            return False
        loaded = type(model).from_pretrained(folder, config=copy.deepcopy(model.config))
        model.load_state_dict(loaded.state_dict())
        return True

    def _correct_best(self, written: Path, final: Path) -> None:
        """Where this checkpoint is the best so far, Trainer has noted the name under which it was written."""
        if self.state.best_model_checkpoint != str(written):
            return
        self.state.best_model_checkpoint = str(final)
        if self.args.should_save:
            # A new file: the old one may be linked into a push under way.
            corrected = written / f"{TRAINER_STATE_NAME}.new"
            self.state.save_to_json(str(corrected))
            os.replace(corrected, written / TRAINER_STATE_NAME)


def _put_in_place(written: Path, final: Path) -> None:
    """Rename, replacing an earlier run's; where nodes share a disk, another node may have done it already."""
    with suppress(FileNotFoundError):
        if final.exists():
            os.replace(final, written.with_name(f"old-{final.name}"))
        os.replace(written, final)
        shutil.rmtree(written.parent, ignore_errors=True)

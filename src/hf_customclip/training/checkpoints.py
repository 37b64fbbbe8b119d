"""Checkpoints that are there whole or not at all, without the towers where those are frozen."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint, rotate_checkpoints
from transformers.utils import logging

from ..evaluation.overlap import DataOrigin, TrainingRecord
from ..modeling.freezing_custom_clip import TOWERS, is_trained
from ..modeling.heads_only_custom_clip import heads_only_file, load_heads
from .finite import check_weights

if TYPE_CHECKING:
    from .trainer import CustomClipTrainer

logger = logging.get_logger(__name__)

# No name that Trainer's search for checkpoints would find.
UNFINISHED = ".unfinished"


class Checkpoints:
    """A trainer's checkpoints: each is written aside and gets its name in one step, when it is complete.

    Where both towers are frozen and named, `checkpoint-*` folders hold the heads alone, which costs next to
    nothing (off with `args.heads_only_checkpoints=False`). Resuming and loading the best model read either kind.

    Attributes:
        data_origin: where the training data came from, for the record that is saved beside whole models.
    """

    def __init__(self, trainer: CustomClipTrainer) -> None:
        self.trainer = trainer
        self._writing = False
        self.data_origin = DataOrigin()
        self._record: TrainingRecord | None = None

    # ---- Writing ----

    def write(self, save: Callable[[], None]) -> None:
        """Let `save` (Trainer's own) write a checkpoint aside, then put it in its place."""
        trainer, state = self.trainer, self.trainer.state
        check_weights(trainer.model, state.global_step)
        folder = Path(trainer._get_output_dir(None))
        self._writing = True
        try:
            save()
        finally:
            self._writing = False
        trainer.accelerator.wait_for_everyone()
        name = f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        self._correct_best(folder / UNFINISHED / name, folder / name)
        if trainer.args.local_process_index == 0:
            _put_in_place(folder / UNFINISHED / name, folder / name)
        if trainer.args.should_save:
            rotate_checkpoints(
                output_dir=str(folder),
                save_total_limit=trainer.args.save_total_limit,
                best_model_checkpoint=state.best_model_checkpoint,
                use_mtime=False,
            )
        trainer.accelerator.wait_for_everyone()

    def output_dir(self, folder: str) -> str:
        """Where Trainer writes: aside while a checkpoint is being made."""
        return os.path.join(folder, UNFINISHED) if self._writing else folder

    def save_heads(self, folder: str | None, state_dict: dict[str, torch.Tensor] | None) -> bool:
        """Save the heads alone where that is all a checkpoint needs; whether it was."""
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        if folder is None or not Path(folder).name.startswith(PREFIX_CHECKPOINT_DIR):
            return False
        if not (self.trainer.args.heads_only_checkpoints and self._can_leave_out_towers(model)):
            return False
        model.save_pretrained(folder, heads_only=True, state_dict=state_dict)
        if self.trainer.processing_class is not None:
            self.trainer.processing_class.save_pretrained(folder)
        return True

    def write_training_record(self, folder: Path) -> None:
        """Write down which images the model was trained on; they are read once, a stream not a second time."""
        dataset = self.trainer.train_dataset
        if self._record is None and isinstance(dataset, Dataset):
            self._record = TrainingRecord.of(dataset, self.data_origin)
        if self._record is not None:
            self._record.save(folder)

    def _can_leave_out_towers(self, model: Any) -> bool:
        if self._in_parts():  # weights in shards are saved and loaded by their own machinery
            return False
        towers = [getattr(model, f"{tower}_model", None) for tower in TOWERS]
        named = all(getattr(model.config, f"{tower}_name", None) for tower in TOWERS)
        return named and all(tower is not None and not is_trained(tower) for tower in towers)

    def _correct_best(self, written: Path, final: Path) -> None:
        """Where this checkpoint is the best so far, Trainer has noted the name under which it was written."""
        state = self.trainer.state
        if state.best_model_checkpoint != str(written):
            return
        state.best_model_checkpoint = str(final)
        if self.trainer.args.should_save:
            # A new file: the old one may be linked into a push under way.
            corrected = written / f"{TRAINER_STATE_NAME}.new"
            state.save_to_json(str(corrected))
            os.replace(corrected, written / TRAINER_STATE_NAME)

    # ---- Reading ----

    def find(self, wanted: str | bool | None) -> str | None:
        """The checkpoint to resume from: a path as it is, for True the newest; None where there is none."""
        if wanted is not True:
            return wanted or None
        folder = self.trainer.args.output_dir
        newest = get_last_checkpoint(folder) if folder and os.path.isdir(folder) else None
        if newest is None:
            logger.warning(f"{folder} holds no checkpoint to resume from: training starts at step 0.")
        return newest

    def discard_unfinished(self) -> None:
        """What a killed run has left."""
        wait = self.trainer.accelerator.wait_for_everyone
        wait()
        if self.trainer.args.local_process_index == 0:
            shutil.rmtree(Path(str(self.trainer.args.output_dir)) / UNFINISHED, ignore_errors=True)
        wait()

    def load(self, folder: str | None, model: Any = None) -> bool:
        """Load a checkpoint of heads, or a whole one by `from_pretrained`; whether it was one of these.

        Trainer puts a file's tensors in by their names there. Those are some towers' old names, a ViT's for
        example, and with no more than a warning the tower would stay as it is.
        """
        model = self.trainer.accelerator.unwrap_model(self.trainer.model if model is None else model)
        if folder is None or self._in_parts():
            return False
        if heads_file := heads_only_file(folder):
            load_heads(model, heads_file)
            return True
        # By its name, not its class: that may have come along with the checkpoint (remote code).
        if getattr(model.config, "model_type", None) != "custom_clip" or not hasattr(
            model, "from_pretrained"
        ):
            return False
        loaded = type(model).from_pretrained(folder, config=copy.deepcopy(model.config))
        model.load_state_dict(loaded.state_dict())
        return True

    def _in_parts(self) -> bool:
        return bool(self.trainer.is_fsdp_enabled or self.trainer.is_deepspeed_enabled)


def _put_in_place(written: Path, final: Path) -> None:
    """Rename, replacing an earlier run's; where nodes share a disk, another node may have done it already."""
    with suppress(FileNotFoundError):
        if final.exists():
            os.replace(final, written.with_name(f"old-{final.name}"))
        os.replace(written, final)
        shutil.rmtree(written.parent, ignore_errors=True)

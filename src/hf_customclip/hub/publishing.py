"""Publishing from a `Trainer`: pushes that are checked, failures that are said, an end that is published."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from huggingface_hub import HfApi
from transformers.trainer import PushInProgress
from transformers.trainer_utils import HubStrategy, SaveStrategy

from ..data.part import captions_per_row
from ..evaluation.chance import retrieval_chance
from .check_folder import published_files
from .errors import PublishError
from .known_data import DataDescription, describe_data
from .model_card import write_model_card
from .push import PushResult, prepare_repo, push_folder
from .results import newest_results

logger = logging.getLogger(__name__)


class Publisher:
    """What a `Trainer` publishes: whole models, without pickles, verified (see `push_folder`).

    A push that fails in the middle of training is logged as an error and made up for at the next save; what
    is still unpublished when training ends is saved, tried once more, and then an error.

    `hub_strategy` "checkpoint" and "all_checkpoints" publish the checkpoint's folder too, without the
    optimizer, which transformers pickles: resuming from it starts the optimizer anew.

    Attributes:
        data_description: what was trained on, for the model card.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.data_description: DataDescription | None = None
        self._saved_step: int | None = None  # of the newest save that is to be published
        self._published_step: int | None = None
        self._pushing: ThreadPoolExecutor | None = None

    @property
    def args(self) -> Any:
        """The trainer's, which it has a moment later than this."""
        return self.trainer.args

    # ---- What Trainer calls ----

    def prepare_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository, or find out before training that it cannot be published to."""
        if not self.trainer.is_world_process_zero():
            return
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        private = private if private is not None else self.args.hub_private_repo
        api = HfApi(token=token or self.args.hub_token)
        info = prepare_repo(name, private=private, revision=self.args.hub_revision, api=api)
        self.trainer.hub_model_id, self.trainer.push_in_progress = info.id, None

    def begin(self) -> None:
        """Before training: forget what an earlier run has left."""
        for left_over in Path(self.args.output_dir).glob(".push-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        self._saved_step = self._published_step = None

    def finish(self) -> None:
        """After training: publish what was to be published by then and is not yet, or raise `PublishError`."""
        # Every process takes part in saving, and only the first knows.
        (unpublished,) = broadcast_object_list([self._saved_step != self._published_step])
        if unpublished:
            self.trainer.push_to_hub(commit_message=self._progress_message())

    def push(
        self,
        message: str | None,
        blocking: bool,
        token: str | None,
        revision: str | None,
        private: bool | None,
        **card: Any,
    ) -> PushResult | Future[PushResult] | None:
        """Save the model with its card to `output_dir` and publish that folder.

        Args:
            blocking: False to return a `Future` at once.
            card: for `create_model_card`.

        Raises:
            PublishError: it was not published; the model is saved in `output_dir`.
        """
        self._announce()
        if self.trainer.hub_model_id is None:
            self.prepare_repo(token, private)
        self.trainer.save_model(_internal_call=True)
        if not self.trainer.is_world_process_zero():
            return None
        self.trainer.create_model_card(**card)
        self.trainer._finish_current_push()
        folder, revision = Path(self.args.output_dir), revision or self.args.hub_revision
        future = self._start(folder, message or "End of training", token=token, revision=revision)
        if not blocking:
            self._follow([future])
            return future
        try:
            return future.result()
        except PublishError as error:
            raise PublishError(f"{error} The model is saved in {self.args.output_dir}.") from error

    def write_card(self, license: str | None = None, dataset: str | None = None) -> None:
        """Write `README.md` into `output_dir`: the template of this package, not Trainer's.

        Args:
            dataset: a Hub id, where `data_description` does not say more.
        """
        if self.trainer.is_world_process_zero():
            self._write_card(Path(self.args.output_dir), license, dataset)

    def push_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.trainer.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        self._saved_step = self.trainer.state.global_step
        busy = self.trainer.push_in_progress is not None and not self.trainer.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self._announce()
        staging = Path(tempfile.mkdtemp(prefix=".push-", dir=self.args.output_dir))
        self._stage(Path(checkpoint_folder), staging)
        there = self._stage_checkpoint(Path(checkpoint_folder), staging)
        future = self._start(staging, self._progress_message(), checkpoint=there)
        self._follow([*(self.trainer.push_in_progress.jobs if busy else ()), future])

    # ---- Parts ----

    def _announce(self) -> None:
        self.trainer.callback_handler.on_push_begin(self.args, self.trainer.state, self.trainer.control)

    def _start(
        self, folder: Path, message: str, *, token: str | None = None, **options: Any
    ) -> Future[PushResult]:
        if self._pushing is None:
            # One at a time, so that an older state never lands on a newer one.
            self._pushing = ThreadPoolExecutor(1, thread_name_prefix="push")
        self._saved_step = step = self.trainer.state.global_step
        staged = folder.name.startswith(".push-")
        api = HfApi(token=token or self.args.hub_token)
        options = {"revision": self.args.hub_revision, "commit_message": message, "api": api, **options}

        def publish() -> PushResult:
            try:
                result = push_folder(folder, str(self.trainer.hub_model_id), **options)
            except Exception as error:
                if staged:
                    logger.error("%s It is tried again at the next save.", error)
                raise
            finally:
                if staged:
                    shutil.rmtree(folder, ignore_errors=True)
            self._published_step = step
            return result

        return self._pushing.submit(publish)

    def _follow(self, futures: list[Future[PushResult]]) -> None:
        self.trainer.push_in_progress = PushInProgress(futures)  # type: ignore[arg-type]

    def _progress_message(self) -> str:
        if self.args.save_strategy == SaveStrategy.STEPS:
            return f"Training in progress, step {self.trainer.state.global_step}"
        return f"Training in progress, epoch {round(self.trainer.state.epoch or 0)}"

    def _stage(self, checkpoint: Path, folder: Path) -> None:
        """A whole model in `folder`, ready to publish, as it is now; training goes on meanwhile."""
        if any(checkpoint.glob("model*.safetensors")):
            for name in published_files(checkpoint):
                _link(checkpoint / name, folder / name)
        else:  # the checkpoint is a heads-only one
            self.trainer.accelerator.unwrap_model(self.trainer.model).save_pretrained(folder)
            if self.trainer.processing_class is not None:
                self.trainer.processing_class.save_pretrained(folder)
        self._write_card(folder)

    def _stage_checkpoint(self, checkpoint: Path, staging: Path) -> str | None:
        """With the strategies that ask for it, the checkpoint's own files in a folder of this name there."""
        names = {HubStrategy.CHECKPOINT: "last-checkpoint", HubStrategy.ALL_CHECKPOINTS: checkpoint.name}
        if (there := names.get(self.args.hub_strategy)) is not None:
            for name in [*published_files(checkpoint), "trainer_state.json"]:
                _link(checkpoint / name, staging / there / name)
        return there

    def _write_card(self, folder: Path, license: str | None = None, dataset: str | None = None) -> None:
        state = self.trainer.state
        data = self.data_description or (describe_data(dataset) if dataset else None)
        best_step = state.best_global_step if self.args.load_best_model_at_end else None
        write_model_card(
            folder,
            str(self.trainer.hub_model_id),
            data=data,
            license=license,
            results=newest_results(state.log_history, data, best_step, self._about_splits()),
            log_history=state.log_history,
            arguments=self.args.to_dict(),
        )

    def _about_splits(self) -> dict[str, dict[str, Any]]:
        """Size and chance of the validation split, for its `RetrievalResult`."""
        if not isinstance(self.trainer.eval_dataset, Dataset):
            return {}
        counts = captions_per_row(self.trainer.eval_dataset)
        images = np.arange(len(counts))
        chance = retrieval_chance(images, np.repeat(images, counts))
        return {"validation": {"num_images": len(counts), "num_captions": sum(counts), "chance": chance}}


def _link(source: Path, target: Path) -> None:
    """The same file under another name, which outlives the first; a copy where links do not work."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)

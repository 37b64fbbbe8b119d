"""An image of what is retrieved, in the trackers that take images, at each evaluation."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import PIL.Image
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback
from transformers.integrations.integration_utils import rewrite_logs
from transformers.utils import logging

from ..evaluation.embedded_dataset import EmbeddedDataset

logger = logging.get_logger(__name__)

# Their libraries have `log` and `Image` alike; TensorBoard's callback has a writer.
LIBRARIES = {WandbCallback: "wandb", TrackioCallback: "trackio"}


class RetrievalImageCallback(TrainerCallback):
    """Sends the images found for five captions, the same captions at every evaluation.

    Without TensorBoard, W&B or Trackio among the trainer's callbacks, nothing is drawn.
    """

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.name, self.image = "", np.zeros(0)

    def draw(self, dataset: Dataset, embedded: EmbeddedDataset, prefix: str) -> None:
        """Draw what the evaluation under way will send, of its data set and their embeddings.

        Args:
            prefix: of its metrics, such as "eval".
        """
        if not self._trackers() or not self.trainer.is_world_process_zero():
            return
        try:
            from ..evaluation.plots import draw_text_to_image
            from ..plotting import save_figure
        except ImportError:
            logger.warning_once("Trackers get no image of results: pip install 'hf-customclip[plots]'.")
            return
        self.name = next(iter(rewrite_logs({f"{prefix}_retrieval": None})))
        with TemporaryDirectory() as folder:
            file = save_figure(draw_text_to_image(embedded, dataset), Path(folder) / "retrieval.png")
            self.image = np.array(PIL.Image.open(file).convert("RGB"))

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Send it: by now the trackers have logged the metrics, so that they are set up."""
        if not self.image.size:
            return
        for tracker in self._trackers():
            if isinstance(tracker, TensorBoardCallback):
                if tracker.tb_writer is not None:
                    tracker.tb_writer.add_image(self.name, self.image, state.global_step, dataformats="HWC")
                    tracker.tb_writer.flush()
            else:
                library = import_module(
                    next(name for of, name in LIBRARIES.items() if isinstance(tracker, of))
                )
                library.log({self.name: library.Image(self.image), "train/global_step": state.global_step})
        self.image = np.zeros(0)

    def _trackers(self) -> list[TrainerCallback]:
        kinds = (TensorBoardCallback, *LIBRARIES)
        return [each for each in self.trainer.callback_handler.callbacks if isinstance(each, kinds)]

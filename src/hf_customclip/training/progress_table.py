"""One line an evaluation while training: losses, recalls both ways, the best so far, the time left."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from tqdm.auto import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy

RECALLS = tuple(f"eval_{way}_recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
WIDTHS = (6, 7, 9, 6, 6, 6, 6, 6, 6, 7, 10)
HEADS = ("epoch", "loss", "val loss", *("R@1", "R@5", "R@10") * 2, "sum", "left")
INDENT = sum(WIDTHS[:3]) + 3


def show_progress_table(trainer: Trainer) -> None:
    """Let the trainer print a table in place of a line for each log; a bar that it shows stays."""
    trainer.remove_callback(PrinterCallback)
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(_BarAlone())
    trainer.add_callback(ProgressTable())


class ProgressTable(TrainerCallback):
    """Prints one line for each evaluation, or for each epoch where nothing is evaluated.

    The loss is the mean of those logged since the line before. A star marks the best evaluation so far, by
    `metric_for_best_model` or else by the sum of the recalls.
    """

    def __init__(self) -> None:
        self.is_training = self.epoch_has_ended = False
        self.best: float | None = None
        self.begun, self.first_step, self.logs_shown = 0.0, 0, 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Print the heads of the columns."""
        self.is_training, self.epoch_has_ended, self.best = True, False, None
        self.begun, self.first_step = time.monotonic(), state.global_step
        self.logs_shown = len(state.log_history)
        if state.is_world_process_zero:
            ways = f"{'image to text':^20} {'text to image':^20}"
            tqdm.write(f"\n{' ' * INDENT}{ways}".rstrip())
            tqdm.write(_line(HEADS))

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Without evaluations, the line of an epoch, once its last loss is logged; asks for that."""
        is_logged = bool(state.log_history) and state.log_history[-1]["step"] == state.global_step
        control.should_log = True
        self.epoch_has_ended = args.eval_strategy == IntervalStrategy.NO
        if is_logged:
            self.on_log(args, state, control)
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The line of an epoch that has ended."""
        if self.epoch_has_ended:
            self.epoch_has_ended = False
            self._print(state, {})

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The line of an evaluation."""
        if self.is_training and metrics is not None:
            # No checkpoint is saved before the first step, so that one cannot be the best.
            self._print(state, metrics, star=state.global_step > 0 and self._is_best(args, metrics))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Say what the star meant."""
        self.is_training = False
        if self.best is not None and state.is_world_process_zero:
            tqdm.write(f"* the best so far, by {_compared(args)[0].removeprefix('eval_')}")

    def _is_best(self, args: TrainingArguments, metrics: Mapping[str, float]) -> bool:
        name, greater = _compared(args)
        value = metrics.get(name)
        if value is None or (
            self.best is not None and (value <= self.best if greater else value >= self.best)
        ):
            return False
        self.best = value
        return True

    def _print(self, state: TrainerState, metrics: Mapping[str, float], star: bool = False) -> None:
        logged = [entry["loss"] for entry in state.log_history[self.logs_shown :] if "loss" in entry]
        self.logs_shown = len(state.log_history)
        if not state.is_world_process_zero:
            return
        cells = [
            f"{state.epoch or 0:.4g}",
            f"{sum(logged) / len(logged):.3f}" if logged else "",
            _number(metrics, "eval_loss", 3),
            *(_number(metrics, name, 3) for name in RECALLS),
            _number(metrics, "eval_rsum", 1),
            self._left(state),
        ]
        tqdm.write(_line(cells) + (" *" if star else ""))

    def _left(self, state: TrainerState) -> str:
        done = state.global_step - self.first_step
        if done <= 0 or state.global_step >= state.max_steps:
            return ""
        return _duration((time.monotonic() - self.begun) / done * (state.max_steps - state.global_step))


class _BarAlone(ProgressCallback):
    """Trainer's bar, without the logs that it prints above it."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


def _compared(args: TrainingArguments) -> tuple[str, bool]:
    """The metric that evaluations are compared by, and whether greater is better."""
    if args.metric_for_best_model is None:
        return "eval_rsum", True
    return f"eval_{args.metric_for_best_model.removeprefix('eval_')}", bool(args.greater_is_better)


def _line(cells: Any) -> str:
    return " ".join(f"{cell:>{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def _number(metrics: Mapping[str, float], name: str, digits: int) -> str:
    return f"{metrics[name]:.{digits}f}" if name in metrics else ""


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"

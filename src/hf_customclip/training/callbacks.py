"""Notices during training: nothing is learned, or the model overfits."""

import logging
import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

AT_CHANCE = (
    "The training loss has been at %.3f for %d logs in a row. That is ln(batch) = %.3f, the loss of a model "
    "for which every text fits every image equally well: nothing is being learned. Usual reasons: a learning "
    "rate too high (the heads collapse) or far too low, captions that do not belong to their images, or "
    "images that are all processed to the same values."
)
OVERFITTING = (
    "Overfitting: %s was best at step %d (%.4g) and has been lower in the %d evaluations since (now %.4g), "
    "while the training loss fell from %.4g to %.4g. Longer training will not help: take the best checkpoint "
    "(load_best_model_at_end, EarlyStoppingCallback), or more data, more dropout, more captions for each "
    "image or augmentation."
)


class ChanceLossCallback(TrainerCallback):
    """Says once when the softmax training loss sits at ln(batch), the loss of a model that knows nothing.

    Args:
        num_pairs: pairs that each image and text is compared with. None: the batch of all processes, or
            of one where the arguments say `gather_negatives=False`.
        patience: logged losses in a row, after warm-up, that must be there.
        tolerance: how near to ln(num_pairs) counts, as a share of it.
    """

    def __init__(self, num_pairs: int | None = None, patience: int = 5, tolerance: float = 0.01) -> None:
        self.num_pairs, self.patience, self.tolerance = num_pairs, patience, tolerance
        self.logs_at_chance = 0
        self.noticed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start counting anew."""
        self.logs_at_chance, self.noticed = 0, False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Count losses at chance in a row; any other loss starts again from nothing."""
        loss = (logs or {}).get("loss")
        if loss is None or self.noticed or _loss_type(kwargs.get("model")) != "softmax":
            return
        if state.global_step <= args.get_warmup_steps(state.max_steps):
            return
        chance = math.log(self.num_pairs or _pairs_in_a_batch(args))
        near = abs(loss - chance) <= self.tolerance * chance
        self.logs_at_chance = self.logs_at_chance + 1 if near else 0
        if self.logs_at_chance == self.patience and state.is_world_process_zero:
            self.noticed = True
            logger.warning(AT_CHANCE, loss, self.patience, chance)


class OverfittingCallback(TrainerCallback):
    """Says once when a validation metric has fallen while the training loss went on dropping.

    Args:
        metric: the metric watched, higher being better; with or without its `eval_` in front.
        patience: evaluations in a row that must be worse than the best so far.
        tolerance: how far below the best the last one must be, as a share of it; less is noise.
    """

    def __init__(self, metric: str = "eval_rsum", patience: int = 2, tolerance: float = 0.01) -> None:
        self.metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        self.patience, self.tolerance = patience, tolerance
        self.noticed = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A new run may notice again."""
        self.noticed = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Compare the last evaluations with the best one; the history survives a resume."""
        evals = [entry for entry in state.log_history if self.metric in entry]
        if self.noticed or len(evals) <= self.patience:
            return
        best = max(evals, key=lambda entry: entry[self.metric])
        since = evals[evals.index(best) + 1 :]
        loss_then, loss_now = _loss_at(state, best["step"]), _loss_at(state, evals[-1]["step"])
        now = evals[-1][self.metric]
        if len(since) < self.patience or now > best[self.metric] * (1 - self.tolerance):
            return
        if loss_then is None or loss_now is None or loss_now >= loss_then:
            return
        self.noticed = True
        if state.is_world_process_zero:
            logger.warning(
                OVERFITTING,
                self.metric,
                best["step"],
                best[self.metric],
                len(since),
                now,
                loss_then,
                loss_now,
            )


def _pairs_in_a_batch(args: TrainingArguments) -> int:
    processes = args.world_size if getattr(args, "gather_negatives", True) else 1
    return args.train_batch_size * processes


def _loss_type(model: Any) -> str | None:
    # Under DDP the configuration belongs to the wrapped module.
    config = getattr(getattr(model, "module", model), "config", None)
    return getattr(config, "loss_type", None) or "softmax"


def _loss_at(state: TrainerState, step: float) -> float | None:
    """The last training loss logged up to `step`."""
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry and entry["step"] <= step]
    return losses[-1] if losses else None

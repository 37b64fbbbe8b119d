"""Pins: the notices of a run stuck at ln(batch) and of overfitting appear when they should, once, and not
otherwise; both driven by the real Trainer."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

from hf_customclip.training.callbacks import ChanceLossCallback, OverfittingCallback

BATCH = 8


class Scripted(torch.nn.Module):
    """Its loss at step n is what `losses` says."""

    def __init__(self, losses, loss_type="softmax"):
        super().__init__()
        self.config = SimpleNamespace(loss_type=loss_type)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.losses = iter(losses)

    def forward(self, x):
        return {"loss": next(self.losses) + 0 * self.weight.sum()}


def run(losses, callback, tmp_path, loss_type="softmax", **options):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=BATCH,
        max_steps=len(losses),
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        **options,
    )
    data = [{"x": torch.zeros(1)} for _ in range(BATCH * len(losses))]
    Trainer(Scripted(losses, loss_type), arguments, train_dataset=data, callbacks=[callback]).train()


STUCK = math.log(BATCH)


def test_a_run_stuck_at_chance_is_noticed_once(tmp_path, caplog):
    run([STUCK + 0.01 * (-1) ** i for i in range(12)], ChanceLossCallback(), tmp_path)
    assert caplog.text.count("nothing is being learned") == 1
    assert "ln(batch) = 2.079" in caplog.text


@pytest.mark.parametrize(
    ("losses", "options"),
    [
        ([STUCK - 0.05 * i for i in range(12)], {}),
        ([STUCK] * 4 + [1.9] + [STUCK] * 4, {}),
        ([STUCK] * 8, {"warmup_steps": 4}),
        ([STUCK] * 8, {"loss_type": "sigmoid"}),
    ],
    ids=["learning", "interrupted", "mostly warm-up", "sigmoid"],
)
def test_no_notice_otherwise(losses, options, tmp_path, caplog):
    run(losses, ChanceLossCallback(), tmp_path, **options)
    assert "nothing is being learned" not in caplog.text


def test_the_number_of_pairs_can_be_given(tmp_path, caplog):
    """Without gathering, a batch on two processes is still compared within itself only."""
    run([math.log(4)] * 6, ChanceLossCallback(num_pairs=4), tmp_path)
    assert "ln(batch) = 1.386" in caplog.text


@pytest.mark.parametrize(("gather", "pairs"), [(True, 16), (False, 8)])
def test_pairs_of_all_processes_count_where_negatives_are_gathered(gather, pairs, caplog):
    args = SimpleNamespace(
        train_batch_size=8, world_size=2, gather_negatives=gather, get_warmup_steps=lambda steps: 0
    )
    callback, state = ChanceLossCallback(patience=2), TrainerState()
    state.global_step = 1
    for _ in range(2):
        callback.on_log(args, state, TrainerControl(), logs={"loss": math.log(pairs)})
    assert f"ln(batch) = {math.log(pairs):.3f}" in caplog.text


def feed(callback, recalls, losses):
    """One logged loss and one evaluation for each step, as Trainer writes them."""
    state = TrainerState()
    for step, (recall, loss) in enumerate(zip(recalls, losses, strict=True), start=1):
        state.log_history += [{"loss": loss, "step": step}, {"eval_rsum": recall, "step": step}]
        callback.on_evaluate(TrainingArguments(use_cpu=True), state, TrainerControl())


FALLING = [2.0, 1.5, 1.2, 1.0, 0.9]


def test_overfitting_is_noticed_once_with_its_numbers(caplog):
    feed(OverfittingCallback(), [100, 150, 140, 130, 120], FALLING)
    assert caplog.text.count("Overfitting: eval_rsum was best at step 2 (150)") == 1
    assert "(now 130), while the training loss fell from 1.5 to 1" in caplog.text


@pytest.mark.parametrize(
    ("recalls", "losses"),
    [
        ([100, 150, 140, 160, 170], FALLING),
        ([100, 110, 120, 130, 125], FALLING),
        ([100, 150, 140, 130, 120], [2.0, 1.5, 1.6, 1.7, 1.8]),
        ([100, 150, 149, 149, 149], FALLING),
    ],
    ids=["recovers", "one dip", "loss rises too", "within noise"],
)
def test_no_overfitting_notice_otherwise(recalls, losses, caplog):
    feed(OverfittingCallback("rsum"), recalls, losses)
    assert "Overfitting" not in caplog.text

"""Pins: while training one line an evaluation is printed, with the mean loss since the line before, what was
measured, a star at each best so far, and no other line; without evaluations one line an epoch."""

import numpy as np
import pytest
from tiny_training import make_trainer

from hf_customclip.training.progress_table import show_progress_table


def run(folder, capsys, **options):
    trainer = make_trainer(folder, num_train_epochs=3, logging_steps=2, **options)
    show_progress_table(trainer)
    trainer.train()
    trainer.evaluate()  # after training: no line
    heads, *lines = capsys.readouterr().out.strip("\n").splitlines()
    assert heads.split() == ["image", "to", "text", "text", "to", "image"]
    assert lines[0].split()[:4] == ["epoch", "loss", "val", "loss"] and "{" not in "".join(lines)
    return trainer.state.log_history[:-1], lines[1:]


@pytest.mark.parametrize("metric", ["loss", "t2i_mean_rank"])
def test_a_line_an_evaluation(tmp_path, capsys, metric):
    options = {"eval_strategy": "epoch", "metric_for_best_model": metric, "greater_is_better": False}
    log, lines = run(tmp_path, capsys, **options)
    evaluations = [entry for entry in log if "eval_rsum" in entry]
    assert len(evaluations) == 3 and len(lines) == 4 and metric in lines[-1]
    best = np.inf
    for number, (line, found) in enumerate(zip(lines, evaluations, strict=False), 1):
        losses = [entry["loss"] for entry in log if "loss" in entry and number - 1 < entry["epoch"] <= number]
        names = [f"eval_{way}_recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]
        shown = [str(number), f"{np.mean(losses):.3f}", f"{found['eval_loss']:.3f}"]
        shown += [f"{found[name]:.3f}" for name in names] + [f"{found['eval_rsum']:.1f}"]
        assert line.split()[: len(shown)] == shown
        assert line.endswith("*") == (found[f"eval_{metric}"] < best)
        best = min(best, found[f"eval_{metric}"])
        assert (" s" in line.rstrip(" *")[-4:]) == (number < 3), "time is left until the last epoch"


def test_a_line_an_epoch_without_evaluations(tmp_path, capsys):
    log, lines = run(tmp_path, capsys)
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    last = [entry["loss"] for entry in log if "loss" in entry and entry["epoch"] > 2]
    assert lines[-1].split()[1] == f"{np.mean(last):.3f}"

"""Pins: one process and two give the same loss, gradients, weights and metrics on the same global batches, also
when the processes' shares differ in size and when captions of one image sit on different processes. A gradient
scaled by the number of processes fails these tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).resolve().parents[1]


def launch(processes, *arguments):
    """`accelerate launch` on CPU processes; --cpu would start one only."""
    several = ["--multi_gpu"] if processes > 1 else []
    command = [sys.executable, "-m", "accelerate.commands.launch", *several]
    command += ["--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    command += [str(TESTS / "training" / "processes.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr


def assert_equal(one, two):
    assert one.keys() == two.keys() and one
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.slow
@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_gradients_of_one_batch(tmp_path, loss_type):
    for processes in (1, 2):
        launch(processes, "gradients", tmp_path / f"{processes}.safetensors", loss_type)
    one, two = (load_file(tmp_path / f"{processes}.safetensors") for processes in (1, 2))
    assert_equal(one, two)
    # Not vacuous: a gradient twice as large would be seen.
    largest = max(gradient.abs().max() for name, gradient in one.items() if name != "loss")
    assert largest > 1e-2


@pytest.mark.slow
def test_a_training_run_and_its_metrics(tmp_path):
    for processes in (1, 2):
        launch(processes, "training", tmp_path / f"{processes}.safetensors")
    one, two = (load_file(tmp_path / f"{processes}.safetensors") for processes in (1, 2))
    assert any("recall" in name for name in one)
    assert_equal(one, two)

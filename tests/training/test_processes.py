"""Pins: one process and two give the same loss, gradients, weights and metrics on the same global batches (64 and
2 x 32), for both losses, also when the processes' shares differ in size, when captions of one image sit on
different processes, with trained towers and with gradient caching. A gradient scaled by the number of processes
fails these tests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).resolve().parents[1]


def launch(processes, *arguments):
    """`accelerate launch`, two processes by the example's configuration."""
    config = TESTS.parent / "examples" / "configs" / "accelerate" / "ddp_cpu.yaml"
    one = ["--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(config)] if processes > 1 else one
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


def by_case(tensors):
    cases = {}
    for name, tensor in tensors.items():
        case, key = name.split(":")
        cases.setdefault(case, {})[key] = tensor
    return cases


@pytest.mark.slow
def test_gradients_of_one_batch(tmp_path):
    for processes in (1, 2):
        launch(processes, "gradients", tmp_path / f"{processes}.safetensors")
    one, two = (by_case(load_file(tmp_path / f"{processes}.safetensors")) for processes in (1, 2))
    assert one.keys() == two.keys() and len(one) == 13
    # Not vacuous: a gradient scaled by the number of processes is seen.
    with pytest.raises(AssertionError):
        assert_equal(one.pop("scaled"), two.pop("scaled"))
    for case in one:
        assert_equal(one[case], two[case])
        assert max(gradient.abs().max() for name, gradient in one[case].items() if name != "loss") > 1e-2
    for loss_type in ("softmax", "sigmoid"):
        assert_equal(one[f"{loss_type}/mask/37/None"], two[f"{loss_type}/mask/37/7"])
        assert_equal(one[f"{loss_type}/towers/None"], two[f"{loss_type}/towers/2"])


@pytest.mark.slow
def test_a_training_run_and_its_metrics(tmp_path):
    for processes in (1, 2):
        launch(processes, "training", tmp_path / f"{processes}.safetensors")
    one, two = (load_file(tmp_path / f"{processes}.safetensors") for processes in (1, 2))
    assert any("recall" in name for name in one)
    assert_equal(one, two)

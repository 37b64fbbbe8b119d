"""Pins: one process and two give the same loss, gradients, weights and metrics on the same global batches (64 and
2 x 32), for both losses, also when the processes' shares differ in size, when captions of one image sit on
different processes, with images that have several captions each, with a teacher, with trained towers and with
gradient caching; a gradient scaled by the number of processes fails these tests. Sharded training (FSDP2) gives one
process's losses and weights, resumes to the same bits, holds the temperature, and saves what loads with AutoModel,
code files included."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

TESTS = Path(__file__).resolve().parents[1]
FILE = TESTS / "training" / "processes.py"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """The folder of what two processes made, started once by the example's configuration."""
    folder = tmp_path_factory.mktemp("two")
    config = TESTS.parent / "examples" / "configs" / "accelerate" / "ddp_cpu.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config, FILE, folder]
    environment = {**os.environ, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def alone():
    """What they ran, for this one process."""
    spec = importlib.util.spec_from_file_location("processes", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def test_gradients_of_one_batch(tmp_path, two, alone):
    alone.gradients(tmp_path / "one.safetensors")
    one, two = (
        by_case(load_file(f)) for f in (tmp_path / "one.safetensors", two / "gradients-2.safetensors")
    )
    assert one.keys() == two.keys() and len(one) == 19
    # Not vacuous: a gradient scaled by the number of processes is seen.
    with pytest.raises(AssertionError):
        assert_equal(one.pop("scaled"), two.pop("scaled"))
    for case in one:
        assert_equal(one[case], two[case])
        assert max(gradient.abs().max() for name, gradient in one[case].items() if name != "loss") > 1e-2
    assert_equal(one["taught/None"], two["taught/7"])
    for loss_type in ("softmax", "sigmoid"):
        assert_equal(one[f"{loss_type}/ignore/37/None"], two[f"{loss_type}/ignore/37/7"])
        assert_equal(one[f"{loss_type}/images/None"], two[f"{loss_type}/images/7"])
        assert_equal(one[f"{loss_type}/towers/None"], two[f"{loss_type}/towers/2"])


def test_a_training_run_and_its_metrics(tmp_path, two, alone):
    alone.training(tmp_path / "one.safetensors")
    one = load_file(tmp_path / "one.safetensors")
    assert any("recall" in name for name in one)
    assert_equal(one, load_file(two / "training-2.safetensors"))


def test_sharded_training(tmp_path, two, alone):
    if not alone.SHARDS_ON_CPU:
        pytest.skip("this torch shards on accelerators only")
    alone.towers(tmp_path, save_strategy="no")
    one, sharded = (
        json.loads((folder / "losses.json").read_text()) for folder in (tmp_path, two / "sharded")
    )
    assert len(one) == 5 and sharded == pytest.approx(one, abs=1e-4)
    model, other = (AutoModel.from_pretrained(folder) for folder in (tmp_path, two / "sharded"))
    assert 4 < model.logit_scale < 4.606
    assert_equal(model.state_dict(), other.state_dict())
    resumed = load_file(two / "resumed" / "model.safetensors")
    for name, tensor in load_file(two / "sharded" / "model.safetensors").items():
        assert torch.equal(tensor, resumed[name]), name
    for folder in (two / "sharded", two / "sharded" / "checkpoint-2"):
        code = {file.name for file in folder.glob("*.py")}
        assert code == {file.name for file in tmp_path.glob("*.py")} and "modeling_custom_clip.py" in code
        config = json.loads((folder / "config.json").read_text())
        assert config["auto_map"]["AutoModel"] == "modeling_custom_clip.CustomClipModel"
        assert config["architectures"] == ["CustomClipModel"]

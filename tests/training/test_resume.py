"""Pins: resuming and loading the best model bring back trained towers whose weights have other names in the file
(a ViT's), also where the model's class is code that came with the checkpoint; a half-written checkpoint is never
resumed from; `True` is allowed before the first checkpoint; runs killed with SIGKILL, also in the middle of writing
a checkpoint, end in the same bits, with one process and two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interpreters import run_python
from tiny import tiny_model
from tiny_training import make_trainer

ROOT = Path(__file__).resolve().parents[2]

WITH_REMOTE_CODE = """
import sys
import torch
from transformers import AutoModel

def load():  # first before the package is imported, whose class would be taken
    return AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)

remote = type(load())
assert remote.__module__.startswith("transformers_modules.")
from test_resume import assert_same
from tiny_training import make_trainer

def trainer(name, **options):
    return make_trainer(f"{sys.argv[2]}/{name}", remote.from_pretrained(sys.argv[1]), **options)

steps = {"save_strategy": "steps", "save_steps": 2}
best = trainer("best", eval_strategy="steps", eval_steps=2, load_best_model_at_end=True,
               metric_for_best_model="loss", greater_is_better=True, **steps)
best.train()
assert_same(best.model, remote.from_pretrained(best.state.best_model_checkpoint))
whole, resumed = trainer("whole", **steps), trainer("resumed")
whole.train()
resumed.train(resume_from_checkpoint=f"{sys.argv[2]}/whole/checkpoint-2")
assert type(resumed.model) is remote
assert_same(whole.model, resumed.model)
moved = [not torch.equal(a, b) for a, b in zip(remote.from_pretrained(sys.argv[1]).parameters(),
                                               resumed.model.parameters())]
print("moved", sum(moved), "of", len(moved))
"""


def unfrozen():
    model = tiny_model()
    model.unfreeze()
    return model


def assert_same(one, other):
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_trained_towers_are_resumed(tmp_path):
    whole = make_trainer(tmp_path, unfrozen(), save_strategy="steps", save_steps=2)
    whole.train()
    resumed = make_trainer(tmp_path / "resumed", unfrozen())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert_same(whole.model, resumed.model)


def test_the_best_model_has_its_trained_towers(tmp_path):
    trainer = make_trainer(
        tmp_path,
        unfrozen(),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,  # the worst: not the last
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert Path(best).parent == tmp_path and Path(best).is_dir()
    assert_same(trainer.model, type(trainer.model).from_pretrained(best))


@pytest.mark.slow
def test_a_model_of_remote_code_is_resumed_whole(tmp_path):
    unfrozen().save_pretrained(tmp_path / "start")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), str(ROOT / "tests/training")]),
        "HF_MODULES_CACHE": str(tmp_path / "modules"),
    }
    done = run_python(WITH_REMOTE_CODE, tmp_path / "start", tmp_path, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    moved, count = (int(word) for word in done.stdout.splitlines()[-1].split()[1::2])
    assert moved > 0.9 * count > 60
    assert "were not used" not in done.stderr and "newly initialized" not in done.stderr


def test_a_half_written_checkpoint_is_not_resumed_from(tmp_path):
    whole = make_trainer(tmp_path, save_strategy="steps", save_steps=2, save_total_limit=1)
    whole.train(resume_from_checkpoint=True)  # nothing there yet
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]
    assert not (tmp_path / ".unfinished").exists()
    half = tmp_path / ".unfinished" / "checkpoint-99"
    half.mkdir(parents=True)
    (half / "trainer_state.json").write_text('{"global_step": 99')
    again = make_trainer(tmp_path)
    again.train(resume_from_checkpoint=True)
    assert_same(whole.model, again.model)
    assert not half.exists()


@pytest.mark.slow
def test_killed_runs_end_in_the_same_bits():
    command = [sys.executable, ROOT / "benchmarks" / "kill_and_resume.py", "--kills", "2", "--epochs", "3"]
    done = subprocess.run([*command, "--processes", "1", "2"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 of 2 identical") == 2

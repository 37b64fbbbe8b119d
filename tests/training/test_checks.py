"""Pins: every name and value of a configuration is checked before anything is loaded, with near matches; a path that
can only be one is missed at once; an option that the image processor would not use, a split that is missing, a
folder with an earlier run's model, a tokenizer of other words or another tower, and processes that nothing connects
are refused in a sentence, and the share of unknown words is said; early stopping stops."""

import os
import re

import pytest
import torch
from interpreters import run_processes
from tiny import tiny_model, tiny_processor
from tiny_training import make_trainer
from transformers import DistilBertTokenizer

from hf_customclip import CustomClipTrainingArguments
from hf_customclip.training.checks import (
    check_processor_options,
    check_sections,
    check_splits,
    check_tokenizer,
    prepare_output_folder,
)
from hf_customclip.training.config import TrainConfig, check_paths


def config(model=(), data=(), training=()):
    return TrainConfig(
        model={"vision": "resnet34", "text": "some/encoder", **dict(model)},
        data={"source": "some/data", **dict(data)},
        training=dict(training),
    )


@pytest.mark.parametrize(
    ("section", "name", "value", "said"),
    [
        ("training", "learning_rat", 1, r"learning_rat is not known.*learning_rate"),
        ("training", "num_train_epochs", "abc", r"num_train_epochs must be a number.*'abc'"),
        ("training", "seed", 1.5, r"seed must be a whole number.*1\.5"),
        ("training", "bf16", "yess", r"bf16 must be true or false"),
        ("training", "eval_strategy", "epohc", r"eval_strategy cannot be 'epohc'.*epoch"),
        ("training", "lr_scheduler_type", "cosin", r"lr_scheduler_type.*cosine"),
        ("training", "metric_for_best_model", "t2i_recal@5", r"metric_for_best_model.*t2i_recall@5"),
        ("training", "report_to", "tensorbord", r"report_to.*tensorboard"),
        ("training", "label_names", "a", r"label_names must be a list or null"),
        ("data", "sed", 1, r"data\.sed is not known.*seed"),
        ("data", "test_fraction", "half", r"test_fraction must be a number or null"),
        ("data", "on_error", "rase", r"on_error cannot be 'rase'.*raise"),
        ("model", "projection_dims", 1, r"model\.projection_dims is not known.*projection_dim"),
        ("model", "projection_dim", "wide", r"projection_dim must be a whole number"),
        ("model", "projection_type", "mpl", r"projection_type.*mlp.*mpl"),
        ("model", "vision_feature_layers", [1.5], r"vision_feature_layers must be a list.*1\.5"),
    ],
)
def test_a_wrong_name_or_value_is_said_with_near_matches(section, name, value, said):
    with pytest.raises(ValueError, match=said):
        check_sections(config(**{section: {name: value}}))


def test_values_are_read_as_they_are_meant():
    given = {
        "max_steps": 1e3,
        "learning_rate": 1,
        "eval_strategy": False,
        "metric_for_best_model": "eval_rsum",
    }
    given |= {"resume_from_checkpoint": True, "deepspeed": {"zero": 1}, "captions_per_image": None}
    checked = check_sections(config(training=given)).training
    assert checked["max_steps"] == 1000 and isinstance(checked["max_steps"], int)
    assert checked == given | {"eval_strategy": "no"}
    layers = {"vision_feature_layers": ["layer2", "layer3"], "text_feature_layers": [2, 3]}
    assert layers.items() <= check_sections(config(model=layers)).model.items()


@pytest.mark.parametrize("value", ["./data/imges", "/no/such/imges", "data/a/b", "../imges"])
def test_a_missing_path_is_said_at_once_with_what_is_near(tmp_path, monkeypatch, value):
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match=r"data\.source.*no file or folder"):
        check_paths(config(data={"source": value}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"model\.vision.*data/images"):
        check_paths(config(model={"vision": "./data/imges"}))
    with pytest.raises(ValueError, match=r"training\.teacher.*/no/such/teacher"):
        check_paths(config(training={"teacher": "/no/such/teacher"}))


def test_hub_ids_patterns_and_torchvision_names_are_no_paths():
    check_paths(config(data={"source": "user/data-set", "captions_file": "captions.txt"}))
    check_paths(config(data={"source": "/shards/a-{000..012}.tar"}))
    check_paths(config(data={"source": "hf://datasets/a/b"}))


def test_an_option_that_the_image_processor_would_not_use():
    check_processor_options(tiny_processor().image_processor, ["do_normalize", "size"])
    with pytest.raises(ValueError, match=r"processor\.do_normalise is not known.*do_normalize"):
        check_processor_options(tiny_processor().image_processor, ["do_normalise"])


def arguments(folder, **more):
    return CustomClipTrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none", **more)


def test_splits_that_training_needs(tmp_path):
    check_splits(["train"], arguments(tmp_path))
    with pytest.raises(ValueError, match="no train split, only test"):
        check_splits(["test"], arguments(tmp_path))
    with pytest.raises(ValueError, match=r"eval_strategy=epoch.*data\.validation_fraction"):
        check_splits(["train", "test"], arguments(tmp_path, eval_strategy="epoch"))


def test_an_earlier_run_is_resumed_overwritten_or_kept(tmp_path):
    prepare_output_folder(arguments(tmp_path / "new"))
    checkpoint = tmp_path / "checkpoint-3"
    checkpoint.mkdir()
    with pytest.raises(ValueError, match=r"overwrite=true.*resume_from_checkpoint=true"):
        prepare_output_folder(arguments(tmp_path))
    prepare_output_folder(arguments(tmp_path, resume_from_checkpoint=True))
    prepare_output_folder(arguments(tmp_path, resume_from_checkpoint=str(checkpoint)))
    with pytest.raises(ValueError, match=r"no checkpoint .*checkpoint-4"):
        prepare_output_folder(arguments(tmp_path, resume_from_checkpoint=str(tmp_path / "checkpoint-4")))
    with pytest.raises(ValueError, match="cannot both"):
        prepare_output_folder(arguments(tmp_path, overwrite=True, resume_from_checkpoint=True))
    (tmp_path / "model.safetensors").write_bytes(b"the better model")
    prepare_output_folder(arguments(tmp_path, overwrite=True))
    assert not checkpoint.exists() and (tmp_path / "model.safetensors").exists()
    for resumed in (None, True):  # nothing to resume from: training would start anew and replace it
        with pytest.raises(ValueError, match=r"earlier run's model.*overwrite=true to replace it\.$"):
            prepare_output_folder(arguments(tmp_path, resume_from_checkpoint=resumed))


@pytest.mark.slow
@pytest.mark.skipif(torch.accelerator.is_available(), reason="an accelerator connects the processes")
def test_processes_that_nothing_connects(tmp_path):
    code = (
        "import os; del os.environ['ACCELERATE_USE_CPU']\n"
        "from hf_customclip import CustomClipTrainingArguments as Arguments\nArguments(output_dir='x', {})"
    )
    for done in run_processes(code.format(""), env=os.environ):
        assert done.returncode == 1
        assert re.search(r"2 processes.*not connected.*training\.use_cpu: true", done.stderr)
    for done in run_processes(code.format("use_cpu=True"), env=os.environ):
        assert done.returncode == 0, done.stderr


def test_early_stopping(tmp_path):
    options = {"early_stopping_patience": 2, "eval_strategy": "epoch", "metric_for_best_model": "rsum"}
    with pytest.raises(ValueError, match=r"eval_strategy.*metric_for_best_model"):
        make_trainer(tmp_path, early_stopping_patience=2)
    with pytest.raises(ValueError, match="at least 1"):
        make_trainer(tmp_path, **{**options, "early_stopping_patience": 0})
    trainer = make_trainer(tmp_path, num_train_epochs=9, learning_rate=1e-12, **options)
    trainer.train()  # nothing is learned: the first evaluation stays the best
    assert trainer.state.epoch == 3


def test_a_tokenizer_that_does_not_go_with_the_data_or_the_tower(tmp_path, caplog):
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]

    def trainer(*words):
        tokenizer = DistilBertTokenizer(
            vocab={word: number for number, word in enumerate([*letters, *words])}
        )
        trainer = make_trainer(tmp_path, rows=4, captions_per_image=1, max_steps=1)
        trainer.processing_class.tokenizer = tokenizer
        return trainer

    with pytest.raises(ValueError, match=r"no word of the captions \(100 % unknown\)"):
        trainer().train()
    with pytest.raises(
        ValueError, match=r"token \d{3,} of a caption.* embeddings for \d+: give the text tower's own"
    ):
        trainer(*map(str, range(200)), "a").train()
    # "a large red square on white" and its like: six words, of which "a" and "on" are known.
    caplog.set_level("WARNING")
    check_tokenizer(
        trainer("a", "on").processing_class.tokenizer, tiny_model(), ["a large red square on white"]
    )
    assert "67% of the captions' tokens" in caplog.text

"""Publishing from the trainer, with each of Trainer's strategies.

Pinned: what is published loads and is the model as it was at that save, without a pickle; the
checkpoint's folder is there where the strategy asks for it, and only the newest of "last-checkpoint"; a
failed push in the middle is logged as an error and made up for at the next save; one that fails last is
tried again when training ends, and then an error, with the model saved; a repository that cannot be
written to is found out before training; the card holds the run's settings, curves and recalls.
Heads-only checkpoints resume to the same weights as whole ones, and give the best model back.
"""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard, constants
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower

from hf_customclip import CustomClipModel, CustomClipTrainer, CustomClipTrainingArguments
from hf_customclip.evaluation.overlap import RECORD_FILE
from hf_customclip.hub import DataDescription, PublishError
from hf_customclip.modeling.heads_only_custom_clip import HEADS_FILE

from .conftest import READ, WRITE
from .faults import Fault
from .folders import held
from .server import LocalHub

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.fixture(autouse=True)
def _endpoint(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reads HF_ENDPOINT when it is imported; here it is long imported."""
    if "hub" in request.fixturenames:
        endpoint = request.getfixturevalue("hub").endpoint
        monkeypatch.setattr("hf_customclip.hub.publishing.HfApi", partial(HfApi, endpoint=endpoint))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def trainer_for(folder: Path, model: Any = None, **arguments: Any) -> Any:
    args = CustomClipTrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        feature_cache="never",
        use_cpu=True,
        seed=1,
        captions_per_image=1,
        **{"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 2, **arguments},
    )
    return CustomClipTrainer(
        model=model or tiny_model(),
        args=args,
        train_dataset=tiny_dataset(16),
        eval_dataset=tiny_dataset(8),
        processing_class=tiny_processor(),
    )


def publishing(folder: Path, strategy: str = "every_save", **arguments: Any) -> Any:
    options = {"push_to_hub": True, "hub_model_id": "alice/m", "hub_token": WRITE, "hub_always_push": True}
    return trainer_for(folder, hub_strategy=strategy, **{**options, **arguments})


def published(hub: LocalHub, revision: str = "main", below: str = "") -> dict[str, torch.Tensor]:
    """Weights of the published model, loaded as anybody would; names on disk are not those in memory."""
    with TemporaryDirectory() as folder:
        for name, content in held(hub, revision=revision).items():
            if name.startswith(below) and "/" not in name[len(below) :]:
                Path(folder, name[len(below) :]).write_bytes(content)
        return CustomClipModel.from_pretrained(folder).state_dict()


def same(weights: dict[str, torch.Tensor], model: torch.nn.Module) -> bool:
    own = model.state_dict()
    return weights.keys() == own.keys() and all(torch.equal(weights[name], own[name]) for name in own)


@pytest.mark.parametrize("strategy", ["end", "every_save", "checkpoint", "all_checkpoints"])
def test_every_strategy_publishes_whole_models_and_no_pickle(
    hub: LocalHub, tmp_path: Path, strategy: str
) -> None:
    trainer = publishing(tmp_path, strategy)
    trainer.train()
    titles = [commit.title for commit in hub.repo("alice/m").history()]
    saves = [] if strategy == "end" else ["Training in progress, step 4", "Training in progress, step 2"]
    assert titles == [*saves, "initial commit"]
    if strategy != "end":
        assert same(published(hub), trainer.model)
    trainer.push_to_hub()
    assert same(published(hub), trainer.model)
    for commit in hub.repo("alice/m").history():
        assert not [name for name in commit.files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    folders = {name.split("/")[0] for name in held(hub) if "/" in name}
    assert folders == {
        "end": set(), "every_save": set(), "checkpoint": {"last-checkpoint"},
        "all_checkpoints": {"checkpoint-2", "checkpoint-4"},
    }[strategy]  # fmt: skip
    assert not list(tmp_path.glob(".push-*"))


def test_each_save_publishes_the_model_of_that_step_and_its_checkpoint(hub: LocalHub, tmp_path: Path) -> None:
    trainer = publishing(tmp_path, "checkpoint", heads_only_checkpoints=False)
    trainer.train()
    earlier = hub.repo("alice/m").history()[1]
    kept = CustomClipModel.from_pretrained(tmp_path / "checkpoint-2")
    assert earlier.title.endswith("step 2")
    for below in ("", "last-checkpoint/"):
        assert same(published(hub, earlier.oid, below), kept)
        assert same(published(hub, below=below), trainer.model) and not same(
            published(hub, below=below), kept
        )
    there = {name.split("/")[1] for name in held(hub) if name.startswith("last-checkpoint/")}
    assert {"model.safetensors", "config.json", "trainer_state.json", "tokenizer.json"} <= there


def test_a_failed_push_is_logged_and_made_up_for(
    hub: LocalHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = publishing(tmp_path)
    hub.faults.add(Fault("commit", "403"))
    with caplog.at_level(logging.ERROR):
        trainer.train()
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "was not published" in record.message and "tried again at the next save" in record.message
    assert hub.repo("alice/m").resolve("main").title == "Training in progress, step 4"
    assert same(published(hub), trainer.model)


def test_a_push_that_fails_last_is_made_up_for_at_the_end(hub: LocalHub, tmp_path: Path) -> None:
    trainer = publishing(tmp_path)
    hub.faults.add(Fault("commit", "403", skip=1))
    trainer.train()
    assert hub.faults.hits == 1
    assert same(published(hub), trainer.model)


def test_an_unpublished_end_is_an_error_and_the_model_is_saved(hub: LocalHub, tmp_path: Path) -> None:
    trainer = publishing(tmp_path)
    hub.faults.add(Fault("commit", "403", times=-1))
    said = rf"was not published.*The model is saved in {tmp_path}\."
    with pytest.raises(PublishError, match=said) as error:
        trainer.train()
    assert "\n" not in str(error.value) and held(hub) == {}
    assert same(CustomClipModel.from_pretrained(tmp_path).state_dict(), trainer.model)


def test_a_push_that_was_skipped_is_made_up_for(hub: LocalHub, tmp_path: Path) -> None:
    """While a slow push runs, Trainer skips the next ones; the end is published all the same."""
    trainer = publishing(tmp_path, hub_always_push=False, save_steps=1, num_train_epochs=2)
    hub.faults.add(Fault("preupload", "slow"))
    trainer.train()
    titles = [commit.title for commit in hub.repo("alice/m").history()]
    assert len(titles) < 2 + 4 and titles[0] == "Training in progress, step 4"
    assert same(published(hub), trainer.model)


def test_what_cannot_be_published_to_is_found_out_first(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="may only read"):
        publishing(tmp_path, hub_token=READ)
    api.create_repo("alice/m")
    api.upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id="alice/m")
    with pytest.raises(PublishError, match="the name is taken by a model of type 'bert'"):
        publishing(tmp_path)


def test_a_private_repository_on_a_branch_named_after_the_folder(hub: LocalHub, tmp_path: Path) -> None:
    folder = tmp_path / "my-clip"
    trainer = publishing(folder, "end", hub_model_id=None, hub_private_repo=True, hub_revision="dev")
    trainer.push_to_hub(commit_message="By hand")
    assert hub.repo("alice/my-clip").private
    assert hub.repo("alice/my-clip").history("dev")[0].title == "By hand"
    assert held(hub, "alice/my-clip") == {}


def test_push_without_waiting(hub: LocalHub, tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, hub_model_id="alice/m", hub_token=WRITE)
    future = trainer.push_to_hub(blocking=False)
    assert future.result(timeout=60).is_new_commit
    assert same(published(hub), trainer.model)


def test_the_card_tells_of_the_run(hub: LocalHub, tmp_path: Path) -> None:
    trainer = publishing(tmp_path, "end", eval_strategy="epoch")
    trainer.publisher.data_description = DataDescription("Drawings", splits={"train": 16}, languages=("en",))
    trainer.train()
    trainer.push_to_hub(license="mit")
    card = ModelCard(held(hub)["README.md"].decode())
    text = str(card)
    assert card.data.to_dict()["license"] == "mit"
    assert "Trained on Drawings." in text and "| learning rate | 0.0007 |" in text
    assert "## Retrieval on Drawings, validation split" in text
    assert "8 images and 16 captions, held out" in text
    measured = [entry for entry in trainer.state.log_history if "eval_rsum" in entry][-1]
    assert f"Sum of the six recalls: {measured['eval_rsum']:.1f} of 600 (by chance " in text
    assert "4 |" in text and str(tmp_path) not in text


# ---- Heads-only checkpoints ----


@pytest.fixture
def towers(tmp_path: Path) -> tuple[str, str]:
    vision = tiny_vision_tower("vit", tmp_path / "vit")
    return vision, tiny_text_tower("distilbert", tmp_path / "distilbert")


def named_model(towers: tuple[str, str]) -> Any:
    torch.manual_seed(3)
    return CustomClipModel.from_vision_text_pretrained(*towers, projection_dim=16)


def test_checkpoints_hold_the_heads_and_the_end_is_whole(
    hub: LocalHub, tmp_path: Path, towers: tuple[str, str]
) -> None:
    trainer = publishing(tmp_path / "run", "checkpoint", model=named_model(towers))
    trainer.train()
    assert same(published(hub), trainer.model)
    assert f"last-checkpoint/{HEADS_FILE}" in held(hub) and HEADS_FILE not in held(hub)
    trainer.save_model()
    checkpoint = tmp_path / "run/checkpoint-4"
    assert {f.name for f in checkpoint.glob("*.safetensors")} == {HEADS_FILE}
    assert {f.name for f in (tmp_path / "run").glob("*.safetensors")} == {"model.safetensors", RECORD_FILE}
    for folder in (checkpoint, tmp_path / "run"):
        assert same(CustomClipModel.from_pretrained(folder).state_dict(), trainer.model)


def test_resuming_from_heads_equals_resuming_from_a_whole_checkpoint(
    tmp_path: Path, towers: tuple[str, str]
) -> None:
    ends = []
    for name, heads_only in (("whole", False), ("heads", True)):
        first = trainer_for(tmp_path / name, named_model(towers), heads_only_checkpoints=heads_only)
        first.train()
        again = trainer_for(tmp_path / name, named_model(towers), heads_only_checkpoints=heads_only)
        again.train(resume_from_checkpoint=str(tmp_path / name / "checkpoint-2"))
        ends += [first.model.state_dict(), again.model.state_dict()]
    for other in ends[1:]:
        assert all(torch.equal(ends[0][name], other[name]) for name in ends[0])
    model = named_model(towers)
    with torch.no_grad():
        model.text_model.embeddings.word_embeddings.weight.add_(1)
    with pytest.raises(ValueError, match="another text tower"):
        trainer_for(tmp_path / "heads", model).train(resume_from_checkpoint=True)


def test_the_best_model_comes_back_from_heads(tmp_path: Path, towers: tuple[str, str]) -> None:
    often = {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    # The highest loss counts as best, so that the best is not the last.
    earliest = {"metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer = trainer_for(tmp_path / "run", named_model(towers), **often, **earliest)
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    best = CustomClipModel.from_pretrained(trainer.state.best_model_checkpoint)
    assert same(best.state_dict(), trainer.model)


def test_trained_towers_are_saved_whole(tmp_path: Path, towers: tuple[str, str]) -> None:
    model = named_model(towers)
    model.unfreeze("text", last_groups=1)
    trainer_for(tmp_path / "run", model).train()
    assert (tmp_path / "run/checkpoint-4/model.safetensors").is_file()

"""Pins: the teacher's loss is the divergence worked out in float64, for pairs and for images with all their captions,
and as shares of several processes; the teacher is run once over images and captions, which batches carry by row and
caption; a CLIP of transformers teaches as a model of ours does; a taught student comes nearer to its teacher; images
without captions are in the teacher's loss and in no other, drawn alike by a resumed run; runs without cached features
are refused."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_vision_tower
from tiny_training import make_trainer

import hf_customclip.features.teacher as teacher_module
from hf_customclip import load_model
from hf_customclip.evaluation.embedded_dataset import embed_dataset
from hf_customclip.training.distillation import distillation_loss


def by_hand(images, texts, scale, teacher_logits):
    """In float64, sum by sum."""
    student = (images.double() @ texts.double().T * scale).tolist()
    total = 0.0
    for s, t in ((student, teacher_logits), (zip(*student, strict=True), zip(*teacher_logits, strict=True))):
        s, t = [list(row) for row in s], [list(row) for row in t]
        divergence = 0.0
        for own, wanted in zip(s, t, strict=True):
            own_sum, wanted_sum = (sum(math.exp(x) for x in row) for row in (own, wanted))
            for a, b in zip(own, wanted, strict=True):
                p = math.exp(b) / wanted_sum
                divergence += p * (math.log(p) - math.log(math.exp(a) / own_sum))
        total += divergence / len(s)
    return total / 2


def random_rows(count, width, seed):
    return F.normalize(torch.randn(count, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def whole(*rows):
    names = ("image_embeds", "text_embeds", "teacher_images", "teacher_texts")
    return {f"all_{name}": row for name, row in zip(names, rows, strict=True)}


@pytest.mark.parametrize("texts", [4, 7])
def test_the_loss_is_the_divergence(texts):
    images, captions = random_rows(4, 8, 0), random_rows(texts, 8, 1)
    taught = 5 * random_rows(4, 3, 2), random_rows(texts, 3, 3)
    scale, rows = torch.tensor(7.0), (images, captions, *taught)
    loss = distillation_loss(images, captions, scale, *taught, **whole(*rows))
    wanted = by_hand(images, captions, 7.0, (taught[0].double() @ taught[1].double().T).tolist())
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    shares = [
        distillation_loss(images[i], captions[t], scale, taught[0][i], taught[1][t], **whole(*rows))
        for i, t in ((slice(0, 3), slice(0, 1)), (slice(3, 4), slice(1, None)))
    ]
    assert sum(shares).item() == pytest.approx(wanted, rel=1e-5)


def test_a_student_that_agrees_with_its_teacher_loses_nothing():
    images, texts = random_rows(4, 8, 0), random_rows(6, 8, 1)
    rows = images, texts, 3 * images, texts
    assert distillation_loss(
        images, texts, torch.tensor(3.0), 3 * images, texts, **whole(*rows)
    ).item() == pytest.approx(0, abs=1e-6)


@pytest.fixture
def teacher(tmp_path):
    """A model of ours whose random heads are others than the student's."""
    model, folder = tiny_model(projection_dim=24), tmp_path / "teacher"
    with torch.no_grad():
        for head in (model.visual_projection, model.text_projection):
            for weight in head.parameters():
                weight.mul_(1.5).add_(
                    0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(7))
                )
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return str(folder)


def taught_trainer(folder, teacher, **arguments):
    options = {"feature_cache_dir": str(folder / "cache"), "head_init": None, "ema_decay": None, **arguments}
    return make_trainer(folder, teacher=teacher, **options)


@pytest.mark.parametrize("batch_of", ["images", "pairs"])
def test_batches_carry_the_teachers_embeddings_of_their_rows_and_captions(tmp_path, teacher, batch_of):
    trainer = taught_trainer(tmp_path, teacher, batch_of=batch_of)
    embedded = embed_dataset(*load_model(teacher), tiny_dataset(24))
    scale = load_model(teacher)[0].logit_scale.exp()
    wanted = scale * embedded.image_embeds @ embedded.text_embeds.T
    (batch, *_) = trainer.get_train_dataloader()
    logits = batch["teacher_images"] @ batch["teacher_texts"].T
    texts = [
        next(i for i, row in enumerate(embedded.text_embeds) if torch.allclose(row, text, atol=1e-5))
        for text in batch["teacher_texts"]
    ]
    torch.testing.assert_close(logits, wanted[batch["image_ids"]][:, texts], atol=1e-3, rtol=1e-4)
    owners = batch.get("text_image_ids", batch["image_ids"])
    assert [text // 2 for text in texts] == owners.tolist()


@pytest.mark.parametrize("dims", [None, [8]])
def test_the_loss_of_a_step_is_both_losses_in_one_pass_or_in_chunks(tmp_path, teacher, dims):
    trained = []
    for chunk_size in (None, 5):
        model = tiny_model(projection_dropout=0, matryoshka_dims=dims)
        arguments = {"batch_of": "images", "per_device_train_batch_size": 24, "num_train_epochs": 1}
        trainer = taught_trainer(
            tmp_path,
            teacher,
            model=model,
            distillation_weight=0.5,
            gradient_cache_chunk_size=chunk_size,
            **arguments,
        )
        (batch,) = trainer.get_train_dataloader()
        logits = batch["teacher_images"] @ batch["teacher_texts"].T
        inputs = {name: rows for name, rows in batch.items() if not name.startswith("teacher_")}
        with torch.no_grad():
            outputs = model(**inputs, return_loss=True)
        scale = float(outputs.logit_scale)
        soft = [
            by_hand(
                *(
                    F.normalize(rows[:, :width], dim=-1)
                    for rows in (outputs.image_embeds, outputs.text_embeds)
                ),
                scale,
                logits.tolist(),
            )
            for width in (16, *(dims or []))
        ]
        trainer.train()
        logged = trainer.state.log_history[0]
        assert logged["loss"] == pytest.approx(outputs.loss.item() + 0.5 * sum(soft) / len(soft), rel=1e-4)
        trained.append((logged["grad_norm"], model.visual_projection.linear1.weight))
    assert trained[0][0] == pytest.approx(trained[1][0], rel=1e-4)
    torch.testing.assert_close(trained[0][1], trained[1][1], atol=1e-5, rtol=1e-4)


@pytest.fixture
def unpaired(tmp_path):
    """A folder of 30 images that the training data have not."""
    folder = tmp_path / "unpaired"
    folder.mkdir()
    for number, image in enumerate(tiny_dataset(54)["image"][24:]):
        image.save(folder / f"{number}.png")
    return str(folder)


@pytest.mark.parametrize("batch_of", ["images", "pairs"])
def test_images_without_captions_are_in_the_teachers_loss_alone(tmp_path, teacher, unpaired, batch_of):
    model = tiny_model(projection_dropout=0)
    arguments = {"batch_of": batch_of, "per_device_train_batch_size": 24, "num_train_epochs": 1}
    arguments |= {"captions_per_image": 1, "unpaired_images": unpaired, "distillation_weight": 0.5}
    trainer = taught_trainer(tmp_path, teacher, model=model, **arguments)
    (batch,), (again,) = trainer.get_train_dataloader(), trainer.get_train_dataloader()
    features, embeds = batch.pop("unpaired_features"), batch.pop("teacher_unpaired")
    assert len(features) == len(embeds) == 24 and torch.equal(features, again["unpaired_features"])
    assert len(features.unique(dim=0)) == 24

    taught = [batch.pop(name) for name in ("teacher_images", "teacher_texts")]
    with torch.no_grad():
        outputs = model(**batch, return_loss=True)
        alone = model(image_features=features).image_embeds
    images, logits = torch.cat([outputs.image_embeds, alone]), torch.cat([taught[0], embeds]) @ taught[1].T
    soft = by_hand(images, outputs.text_embeds, float(outputs.logit_scale), logits.tolist())
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(outputs.loss.item() + 0.5 * soft, rel=1e-4)


def test_the_teacher_runs_once(tmp_path, teacher, monkeypatch):
    shown = []
    run = teacher_module.TeacherPass.__call__

    def counted(self, inputs):
        shown.append(len(next(iter(inputs.values()))))
        return run(self, inputs)

    monkeypatch.setattr(teacher_module.TeacherPass, "__call__", counted)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # no workers, which would count for themselves
    taught_trainer(tmp_path, teacher).train()
    assert sum(shown) == 24 + 48
    taught_trainer(tmp_path, teacher).train()
    assert sum(shown) == 24 + 48


def test_a_taught_student_is_nearer_to_its_teacher(tmp_path, teacher):
    embedded = embed_dataset(*load_model(teacher), tiny_dataset(24))
    wanted = (embedded.image_embeds @ embedded.text_embeds.T).flatten()

    def likeness(name, **arguments):
        trainer = taught_trainer(tmp_path / name, num_train_epochs=20, learning_rate=3e-3, **arguments)
        trainer.train()
        own = embed_dataset(trainer.model, tiny_processor(), tiny_dataset(24))
        return torch.corrcoef(torch.stack([wanted, (own.image_embeds @ own.text_embeds.T).flatten()]))[0, 1]

    assert (
        likeness("taught", teacher=teacher, distillation_weight=10.0) > likeness("alone", teacher=None) + 0.1
    )


def test_a_clip_of_transformers_teaches(tmp_path):
    folder = tiny_vision_tower("clip", tmp_path / "clip")
    trainer = taught_trainer(tmp_path, folder)
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])


def test_what_cannot_be_taught_is_refused(tmp_path, teacher):
    with pytest.raises(ValueError, match=r"teacher.*cached features"):
        taught_trainer(tmp_path, teacher, feature_cache="never").train()
    with pytest.raises(ValueError, match=r"teacher.*closed_form"):
        taught_trainer(tmp_path, teacher, method="closed_form")
    with pytest.raises(ValueError, match="distillation_weight"):
        taught_trainer(tmp_path, teacher, distillation_weight=0)
    with pytest.raises(ValueError, match=r"unpaired_images.*teacher"):
        taught_trainer(tmp_path, None, unpaired_images=str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"unpaired_images.*empty.*no images"):
        taught_trainer(tmp_path, teacher, unpaired_images=str(tmp_path / "empty")).train()
    tower = tiny_vision_tower("vit", tmp_path / "vit")
    with pytest.raises(ValueError, match=r"ViTModel.*compare"):
        taught_trainer(tmp_path, tower).train()

"""Pins: heads started by canonical correlation analysis find what is shared between noisy features, as an
independent NumPy computation does; both kinds of heads; seeded training is not shifted by it; it needs both
towers' cached features and says so; equal features leave the heads alone; for embeddings that will be cut the
strongest directions come first."""

import numpy as np
import pytest
import torch
from tiny import tiny_model
from tiny_training import make_trainer

from hf_customclip.data.pairs import FeatureBatch
from hf_customclip.modeling.heads_custom_clip import build_projection
from hf_customclip.training.head_init import RIDGE, start_heads_at_cca


def shared_signal(rows=400, seed=0):
    """12 and 10 wide features with 3 shared directions, far from the origin."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((rows, 3))
    x = common @ generator.standard_normal((3, 12)) + 0.5 * generator.standard_normal((rows, 12)) + 4
    y = common @ generator.standard_normal((3, 10)) + 0.5 * generator.standard_normal((rows, 10)) - 2
    return x, y


def numpy_similarities(x, y):
    """Ridge CCA by an eigenvalue problem, in another way than the package's: sum of rho² * a * b."""
    x, y = x - x.mean(0), y - y.mean(0)
    xx, yy, xy = x.T @ x / len(x), y.T @ y / len(y), x.T @ y / len(x)
    xx, yy = (c + RIDGE * np.eye(len(c)) * np.trace(c) / len(c) for c in (xx, yy))
    values, b = np.linalg.eig(np.linalg.solve(yy, xy.T) @ np.linalg.solve(xx, xy))
    b = b.real / np.sqrt(np.einsum("ij,ik,kj->j", b.real, yy, b.real))
    rho = np.sqrt(np.clip(values.real, 1e-18, None))
    a = np.linalg.solve(xx, xy) @ b / rho
    left, right = (x @ a) * rho, (y @ b) * rho
    return (left / np.linalg.norm(left, axis=1, keepdims=True)) @ (
        right / np.linalg.norm(right, axis=1, keepdims=True)
    ).T


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_as_numpy_computes_it(kind):
    x, y = shared_signal()
    # The mean is taken away as a direction, which is exact for features whose mean part does not vary.
    for features in (x, y):
        mean = features.mean(0)
        features -= np.outer(features @ mean / (mean @ mean) - 1, mean)
    heads = [build_projection(kind, width, 16, 0.0).eval() for width in (12, 10)]
    tensors = [torch.from_numpy(features).float() for features in (x, y)]
    parts = [[part[rows] for part in tensors] for rows in (slice(250), slice(250, None))]
    start_heads_at_cca(*heads, [FeatureBatch(x, y, torch.arange(len(x))) for x, y in parts])
    with torch.no_grad():
        embeds = [
            torch.nn.functional.normalize(head(t), dim=-1) for head, t in zip(heads, tensors, strict=True)
        ]
    found = (embeds[0] @ embeds[1].T).numpy()
    np.testing.assert_allclose(found, numpy_similarities(x, y), atol=2e-3)
    assert (found.argmax(1) == np.arange(len(x))).mean() > 20 / len(x)


def test_the_trainer_starts_there_and_a_resumed_run_does_not(tmp_path):
    random = make_trainer(tmp_path / "a", save_strategy="no")
    started = make_trainer(tmp_path / "b", head_init="cca", save_strategy="steps", save_steps=3)
    before = random.evaluate()["eval_rsum"]
    started._start_heads()
    assert started.evaluate()["eval_rsum"] > before + 50
    started.train()
    resumed = make_trainer(tmp_path / "b", head_init="cca", save_strategy="no")
    resumed.train(resume_from_checkpoint=True)
    for (name, a), b in zip(started.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_without_cached_features_it_says_so(tmp_path):
    model = tiny_model()
    model.unfreeze("text")
    with pytest.raises(ValueError, match="head_init='cca' needs the cached features of both towers"):
        make_trainer(tmp_path, model, head_init="cca").train()
    with pytest.raises(ValueError, match="head_init must be one of 'auto', 'cca', got 'pca'"):
        make_trainer(tmp_path, head_init="pca")


def test_equal_features_leave_the_heads_as_they_are(caplog):
    """One image, or the same one many times: there is no direction to go by, and no error in linear algebra."""
    heads = tiny_model().visual_projection, tiny_model().text_projection
    before = [head.linear1.weight.clone() for head in heads]
    same = FeatureBatch(torch.ones(6, 32), torch.randn(6, 32), torch.arange(6))
    start_heads_at_cca(*heads, [same])
    assert all(torch.equal(head.linear1.weight, old) for head, old in zip(heads, before, strict=True))


def test_the_strongest_directions_come_first_for_embeddings_that_are_cut(tmp_path):
    """Three directions are shared: in order, the first three of sixteen numbers hold nearly all."""
    x, y = (torch.from_numpy(part - part.mean(0)).float() for part in shared_signal())
    heads = [build_projection("linear", width, 16, 0.0).eval() for width in (12, 10)]
    start_heads_at_cca(*heads, [FeatureBatch(x, y, torch.arange(len(x)))], strongest_first=True)
    for head, features in zip(heads, (x, y), strict=True):
        embeds = head(features)
        assert embeds[:, :3].norm() > 0.95 * embeds.norm() > embeds[:, :2].norm()
    trainer = make_trainer(tmp_path, tiny_model(matryoshka_dims=[4]), learning_rate=1e-12, num_train_epochs=1)
    trainer.train()
    first = trainer.model.visual_projection.linear1.weight.norm(dim=1)
    assert first[:4].min() > first[-4:].max()

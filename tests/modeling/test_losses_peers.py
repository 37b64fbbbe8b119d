"""Pins: losses and gradients as open_clip computes them, also over blocks; captions of one image that share
the probability mass, against float64 sums and by hand; float32 under autocast, sigmoid and gradients too."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from hf_customclip.training.distributed import sigmoid_contrastive_loss, softmax_contrastive_loss


def leaves(count, seed, scale, dim=6, dtype=torch.float32):
    """Embeddings, inverse temperature and bias that ask for gradients."""
    generator = torch.Generator().manual_seed(seed)
    pairs = [F.normalize(torch.randn(count, dim, generator=generator, dtype=dtype), dim=-1) for _ in range(2)]
    return [x.requires_grad_() for x in (*pairs, torch.tensor(scale, dtype=dtype))], torch.tensor(
        -3.0, dtype=dtype, requires_grad=True
    )


def values_and_gradients(loss, tensors):
    return loss.item(), torch.autograd.grad(loss, tensors)


def agree(ours, theirs, tolerance=1e-5):
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance, abs=1e-6)  # a float32 logit of 50 is not finer
    for a, b in zip(ours[1], theirs[1], strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_as_open_clip(count, scale):
    open_clip_loss = pytest.importorskip("open_clip.loss")
    clip, bias = leaves(count, count, scale)
    agree(
        values_and_gradients(softmax_contrastive_loss(*clip), clip),
        values_and_gradients(open_clip_loss.ClipLoss()(*clip), clip),
    )
    siglip = [*clip, bias]
    agree(
        values_and_gradients(sigmoid_contrastive_loss(*siglip), siglip),
        values_and_gradients(open_clip_loss.SigLipLoss()(*siglip), siglip),
    )


def right_answers(ids):
    return [[j for j in range(len(ids)) if ids[j] == ids[i]] for i in range(len(ids))]


def shared_softmax(images, texts, scale, ids):
    """Row by row and column by column: the mean over the right answers of -log p."""
    logits, total = scale * images @ texts.T, 0.0
    for i, right in enumerate(right_answers(ids)):
        for scores in (logits[i], logits[:, i]):
            total = total + (torch.logsumexp(scores, 0) - scores[right].mean())
    return total / (2 * len(ids))


def shared_sigmoid(images, texts, scale, bias, ids):
    logits, total = scale * images @ texts.T + bias, 0.0
    for i in range(len(ids)):
        for j in range(len(ids)):
            total = total + torch.log1p(torch.exp(-logits[i, j] if ids[i] == ids[j] else logits[i, j]))
    return total / len(ids)


@settings(max_examples=30, deadline=None)
@given(
    ids=st.lists(st.integers(0, 4), min_size=1, max_size=7),
    scale=st.sampled_from([0.5, 10.0, 50.0]),
    seed=st.integers(0, 1000),
)
def test_shared_mass_in_float64(ids, scale, seed):
    (images, texts, inverse), bias = leaves(len(ids), seed, scale)
    double = [x.detach().double().requires_grad_() for x in (images, texts, inverse, bias)]
    known = torch.tensor(ids)
    agree(
        values_and_gradients(
            softmax_contrastive_loss(images, texts, inverse, known, same_image="positive"),
            [images, texts, inverse],
        ),
        values_and_gradients(shared_softmax(*double[:3], ids), double[:3]),
        2e-5,
    )
    agree(
        values_and_gradients(
            sigmoid_contrastive_loss(images, texts, inverse, bias, known, same_image="positive"),
            [images, texts, inverse, bias],
        ),
        values_and_gradients(shared_sigmoid(*double, ids), double),
        2e-5,
    )


def test_shared_mass_by_hand():
    """All embeddings alike, two captions of one image and one other: each right answer is at 1/3 whatever is done,
    where ignoring the duplicates leaves 1/2 (and 1/3 for the other)."""
    same = torch.eye(2)[[0, 0, 0]]
    ids, one = torch.tensor([5, 5, 6]), torch.tensor(1.0)
    share = softmax_contrastive_loss(same, same, one, ids, same_image="positive")
    mask = softmax_contrastive_loss(same, same, one, ids)
    assert share.item() == pytest.approx(math.log(3), abs=1e-6)
    assert mask.item() == pytest.approx((2 * math.log(2) + math.log(3)) / 3, abs=1e-6)


@pytest.mark.parametrize("same_image", ["ignore", "positive"])
def test_blocks_average_to_the_whole(same_image):
    (images, texts, scale), bias = leaves(5, 3, 8.0)
    ids = torch.tensor([1, 2, 1, 3, 2])
    whole = softmax_contrastive_loss(images, texts, scale, ids, same_image=same_image)
    wholly = sigmoid_contrastive_loss(images, texts, scale, bias, ids, same_image=same_image)
    softmax = sigmoid = 0.0
    for start, end in ((0, 3), (3, 5)):
        rows = slice(start, end)
        every = {"all_text_embeds": texts, "all_image_ids": ids, "offset": start, "same_image": same_image}
        block = softmax_contrastive_loss(
            images[rows], texts[rows], scale, ids[rows], all_image_embeds=images, **every
        )
        softmax += block * (end - start) / 5
        block = sigmoid_contrastive_loss(images[rows], texts[rows], scale, bias, ids[rows], **every)
        sigmoid += block * (end - start) / 5
    assert softmax.item() == pytest.approx(whole.item(), rel=1e-5)
    assert sigmoid.item() == pytest.approx(wholly.item(), rel=1e-5)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_the_configuration_chooses(loss_type):
    features = {"image_features": torch.randn(4, 32), "text_features": torch.randn(4, 32)}
    ids = torch.tensor([1, 1, 2, 3])
    losses = {
        same_image: tiny_model(loss_type=loss_type, same_image=same_image)(
            **features, image_ids=ids, return_loss=True
        ).loss
        for same_image in ("ignore", "positive")
    }
    assert abs(losses["positive"].item() - losses["ignore"].item()) > 0.01
    with pytest.raises(ValueError, match="'ignore', 'positive', got 'both'"):
        tiny_model(same_image="both")


def test_float32_under_autocast():
    (images, texts, scale), bias = leaves(16, 0, 100.0)
    plain = values_and_gradients(
        sigmoid_contrastive_loss(images, texts, scale, bias), [images, texts, scale, bias]
    )
    with torch.autocast("cpu", torch.bfloat16):
        loss = sigmoid_contrastive_loss(images, texts, scale, bias)
    under = values_and_gradients(loss, [images, texts, scale, bias])
    assert loss.dtype == torch.float32 and under[0] == plain[0]
    assert all(torch.equal(a, b) for a, b in zip(under[1], plain[1], strict=True))

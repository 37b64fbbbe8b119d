"""Pins: the losses of images with several texts each, by hand, against float64 sums over plain lists, their
gradients against finite differences, and that the processes' shares add up to the whole; with one text an image
they are the losses of pairs; what is missing is said."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from hf_customclip.modeling.losses_custom_clip import (
    multi_positive_sigmoid_loss,
    multi_positive_softmax_loss,
    sigmoid_contrastive_loss,
    softmax_contrastive_loss,
)


def rows(count, seed, dim=6):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator), dim=-1)


def softmax_brute_force(images, texts, scale, image_ids, text_ids):
    logits = (images.double() @ texts.double().T * float(scale.detach())).tolist()
    exps = [[math.exp(logit) for logit in row] for row in logits]
    total = 0.0
    for i, image in enumerate(image_ids):
        right = sum(e for e, text in zip(exps[i], text_ids, strict=True) if text == image)
        total -= math.log(right / sum(exps[i])) / len(image_ids)
    for j, text in enumerate(text_ids):
        column = [row[j] for row in exps]
        right = sum(e for e, image in zip(column, image_ids, strict=True) if image == text)
        total -= math.log(right / sum(column)) / len(text_ids)
    return total / 2


def sigmoid_brute_force(images, texts, scale, bias, image_ids, text_ids):
    logits = (images.double() @ texts.double().T * float(scale.detach()) + float(bias.detach())).tolist()
    return sum(
        math.log1p(math.exp(-logit if image == text else logit))
        for row, image in zip(logits, image_ids, strict=True)
        for logit, text in zip(row, text_ids, strict=True)
    ) / len(image_ids)


def test_by_hand():
    """Image 1 has the texts (1, 0) and (0, 1), image 2 the text (0.6, 0.8); images (1, 0) and (0, 1)."""
    images, texts = torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    e = math.exp
    first, second = math.log((e(1) + 1 + e(0.6)) / (e(1) + 1)), math.log((1 + e(1) + e(0.8)) / e(0.8))
    captions = [math.log(1 + e(-1)), math.log(1 + e(1)), math.log(1 + e(0.6 - 0.8))]
    expected = ((first + second) / 2 + sum(captions) / 3) / 2
    loss = multi_positive_softmax_loss(
        images, texts, torch.tensor(1.0), torch.tensor([7, 9]), torch.tensor([7, 7, 9])
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    scale=st.floats(0.1, 100),
    bias=st.floats(-15, 5),
    seed=st.integers(0, 1000),
)
def test_against_brute_force(counts, scale, bias, seed):
    image_ids = list(range(3, 3 + len(counts)))
    text_ids = [image for image, count in zip(image_ids, counts, strict=True) for _ in range(count)]
    images, texts = rows(len(image_ids), seed), rows(len(text_ids), seed + 1)
    ids = torch.tensor(image_ids), torch.tensor(text_ids)
    scale, bias = torch.tensor(scale), torch.tensor(bias)
    found = multi_positive_softmax_loss(images, texts, scale, *ids).item()
    expected = softmax_brute_force(images, texts, scale, image_ids, text_ids)
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-5)
    found = multi_positive_sigmoid_loss(images, texts, scale, bias, *ids).item()
    expected = sigmoid_brute_force(images, texts, scale, bias, image_ids, text_ids)
    assert found == pytest.approx(expected, rel=1e-4, abs=2e-5)


def test_with_one_text_an_image_it_is_the_loss_of_pairs():
    images, texts, ids = rows(5, 0), rows(5, 1), torch.arange(5)
    scale, bias = torch.tensor(9.0), torch.tensor(-3.0)
    multi, pairs = (
        multi_positive_softmax_loss(images, texts, scale, ids, ids),
        softmax_contrastive_loss(images, texts, scale, ids),
    )
    torch.testing.assert_close(multi, pairs)
    multi = multi_positive_sigmoid_loss(images, texts, scale, bias, ids, ids)
    torch.testing.assert_close(multi, sigmoid_contrastive_loss(images, texts, scale, bias, ids))


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_shares_of_processes_add_up_to_the_whole(loss_type):
    """Two processes with 2 and 1 images, 3 and 2 texts: values and gradients."""
    image_ids, text_ids = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1, 2, 2])
    scale, bias = torch.tensor(5.0), torch.tensor(-2.0)

    def loss(own_images, own_texts, images, texts):
        everybody = {"all_text_embeds": texts, "all_image_ids": image_ids, "all_text_image_ids": text_ids}
        own = images[own_images], texts[own_texts]
        ids = image_ids[own_images], text_ids[own_texts]
        if loss_type == "sigmoid":
            return multi_positive_sigmoid_loss(*own, scale, bias, *ids, **everybody)
        return multi_positive_softmax_loss(*own, scale, *ids, all_image_embeds=images, **everybody)

    gradients, values = [], []
    for shares in ([(slice(0, 3), slice(0, 5))], [(slice(0, 2), slice(0, 3)), (slice(2, 3), slice(3, 5))]):
        images, texts = rows(3, 0).requires_grad_(), rows(5, 1).requires_grad_()
        total = sum(loss(*share, images, texts) for share in shares)
        total.backward()
        values.append(total.detach())
        gradients.append((images.grad, texts.grad))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_gradients_against_numbers():
    """Against finite differences of the float64 brute force."""
    image_ids, text_ids = [4, 5], [4, 5, 4]
    given = [rows(2, 0).requires_grad_(), rows(3, 1).requires_grad_(), torch.tensor(4.0, requires_grad=True)]
    multi_positive_softmax_loss(*given, torch.tensor(image_ids), torch.tensor(text_ids)).backward()
    step = 1e-4
    for tensor in given:
        flat = tensor.detach().double().flatten()
        for k in range(flat.numel()):
            values = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[k] += sign * step
                values.append(
                    softmax_brute_force(
                        *(moved.view(tensor.shape) if x is tensor else x.detach() for x in given),
                        image_ids,
                        text_ids,
                    )
                )
            assert tensor.grad.flatten()[k].item() == pytest.approx(
                (values[0] - values[1]) / (2 * step), abs=1e-4
            )


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_the_model_takes_several_texts_an_image(loss_type):
    model = tiny_model(loss_type=loss_type)
    inputs = {"image_features": torch.randn(2, 32), "text_features": torch.randn(3, 32), "return_loss": True}
    ids = {"image_ids": torch.tensor([1, 2]), "text_image_ids": torch.tensor([1, 1, 2])}
    out = model(**inputs, **ids)
    given = [out.image_embeds, out.text_embeds, out.logit_scale]
    if loss_type == "softmax":
        expected = softmax_brute_force(*given, [1, 2], [1, 1, 2])
    else:
        expected = sigmoid_brute_force(*given, model.logit_bias, [1, 2], [1, 1, 2])
    assert out.loss.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(
        ValueError, match="2 images and 3 texts; for several texts an image give text_image_ids"
    ):
        model(**inputs)
    with pytest.raises(ValueError, match="text_image_ids needs image_ids"):
        model(**inputs, text_image_ids=torch.tensor([1, 1, 2]))

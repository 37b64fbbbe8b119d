"""Pins: each defect of the tutorial's published code is gone by default, and its recipe can still be had to
the letter. (Those of its training loop, held-out data and the last batch's loss, are the trainer's tests.)"""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_dataset, tiny_text_tower
from torch import nn

from hf_customclip import CustomClipModel, CustomClipProcessor

NONE = {"logit_scale_init_value": 0.0, "learn_logit_scale": False}
SQUASHED = {"size": {"height": 224, "width": 224}, "do_center_crop": False, "do_normalize": False}


class TutorialModel(nn.Module):
    """The tutorial's code in short, with its mask and train mode as they are, for comparison."""

    def __init__(self, ours):
        super().__init__()
        self.network, self.text = ours.vision_model.network, ours.text_model
        self.heads = nn.ModuleList([self.head(ours.visual_projection), self.head(ours.text_projection)])

    @staticmethod
    def head(ours):
        return nn.ModuleList([ours.linear1, ours.linear2, ours.layer_norm])

    @staticmethod
    def project(head, x):
        linear1, linear2, layer_norm = head
        e1 = linear1(x)
        return layer_norm(e1 + F.dropout(linear2(F.gelu(e1)), 0.5, head.training))

    def embed(self, pixels, tokens):
        images = self.project(self.heads[0], self.network(pixels))
        texts = self.project(self.heads[1], self.text(tokens).last_hidden_state[:, 0])
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)

    def forward(self, pixels, tokens):
        images, texts = self.embed(pixels, tokens)
        logits = images @ texts.T
        target = torch.arange(len(logits))
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return tiny_text_tower("distilbert", tmp_path_factory.mktemp("text"))


def make(text, **options):
    return CustomClipModel.from_vision_text_pretrained(
        "resnet18", text, vision_weights=None, **options
    ).eval()


def batch(text, count=4, **options):
    processor = CustomClipProcessor.from_vision_text_pretrained("resnet18", text, **options)
    data = tiny_dataset(count)
    captions = [captions[i % 2] for i, captions in enumerate(data["captions"])]
    return processor(images=list(data["image"]), text=captions, return_tensors="pt")


def test_recipe_to_the_letter(text):
    """Squashed, unnormalised images, no mask, no temperature: the very loss and gradients of its code."""
    ours = make(text, **NONE)
    inputs = batch(text, **SQUASHED)
    tutorial = TutorialModel(ours).eval()
    expected = tutorial(inputs["pixel_values"], inputs["input_ids"])
    got = ours(pixel_values=inputs["pixel_values"], input_ids=inputs["input_ids"], return_loss=True).loss
    torch.testing.assert_close(got, expected)
    heads = [p for head in tutorial.heads for p in head.parameters()]
    for mine, theirs in zip(
        torch.autograd.grad(got, heads), torch.autograd.grad(expected, heads), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-7)


def test_attention_mask_matters(text):
    """Never passed there: what stands beside a caption in the batch changes its embedding."""
    ours, inputs = make(text), batch(text)
    tutorial = TutorialModel(ours).eval()
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    shortest = mask.sum(1).argmin()
    alone = tokens[shortest, : mask[shortest].sum()][None]
    assert len(alone[0]) < tokens.shape[1]
    with torch.no_grad():
        _, theirs = tutorial.embed(inputs["pixel_values"], tokens)
        _, theirs_alone = tutorial.embed(inputs["pixel_values"], alone)
        mine = ours(**inputs).text_embeds[shortest]
        torch.testing.assert_close(mine, ours(input_ids=alone).text_embeds[0], rtol=1e-4, atol=1e-5)
    assert (theirs[shortest] - theirs_alone[0]).abs().max() > 1e-3


def test_temperature_is_learned_by_default(text):
    model = make(text).train()
    assert model.logit_scale.requires_grad
    assert model.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-4)


def test_same_image_twice_is_no_negative(text):
    """Its batches hold an image with both captions, each counted wrong for the other."""
    model, inputs = make(text, **NONE), batch(text, 2)
    twice = {name: tensor[[0, 0, 1]] for name, tensor in inputs.items()}
    with torch.no_grad():
        out = model(**twice, image_ids=torch.tensor([5, 5, 6]), return_loss=True)
        cosines = out.image_embeds @ out.text_embeds.T
    # By hand: the captions of one image meet only the third pair, the third pair meets both.
    i_to_t = [
        -math.log(math.exp(cosines[k, k]) / sum(math.exp(cosines[k, j]) for j in rivals))
        for k, rivals in enumerate([(0, 2), (1, 2), (0, 1, 2)])
    ]
    t_to_i = [
        -math.log(math.exp(cosines[k, k]) / sum(math.exp(cosines[j, k]) for j in rivals))
        for k, rivals in enumerate([(0, 2), (1, 2), (0, 1, 2)])
    ]
    assert out.loss.item() == pytest.approx((sum(i_to_t) + sum(t_to_i)) / 6, abs=1e-5)


def test_frozen_parts_are_really_frozen(text):
    """Its `model.train()` wakes BatchNorm and dropout in the towers that it calls frozen."""
    tutorial_like, ours, inputs = make(text), make(text), batch(text)
    theirs = TutorialModel(tutorial_like).train()
    before = theirs.network.bn1.running_mean.clone()
    theirs(inputs["pixel_values"], inputs["input_ids"])
    assert not torch.equal(theirs.network.bn1.running_mean, before)
    ours.train()
    before = ours.vision_model.network.bn1.running_mean.clone()
    ours(**inputs, return_loss=True)
    assert torch.equal(ours.vision_model.network.bn1.running_mean, before)


def test_logits_are_images_against_texts(text):
    """Not texts against texts: rows are images, columns texts, also of unequal numbers."""
    model, inputs = make(text), batch(text, 3)
    with torch.no_grad():
        out = model(**{**inputs, "pixel_values": inputs["pixel_values"][:2]})
    assert out.logits_per_image.shape == (2, 3) and out.logits_per_text.shape == (3, 2)
    expected = out.logit_scale * out.image_embeds[1] @ out.text_embeds[2]
    assert out.logits_per_image[1, 2].item() == pytest.approx(expected.item(), rel=1e-4)
    assert out.logits_per_text[2, 1].item() == pytest.approx(expected.item(), rel=1e-4)

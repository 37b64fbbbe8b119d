"""Pins: equal captions are right for each other's images and images of one group are never negatives, in both losses,
for pairs and for images with several texts, against float64 sums written out; over two processes' blocks the same."""

import math

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_model

from hf_customclip.modeling import losses_custom_clip as losses

SCALE, BIAS = torch.tensor(5.0), torch.tensor(-1.0)
IMAGES = torch.tensor([0, 1, 2, 3, 4, 5])
GROUPS = torch.tensor([7, 7, 8, 9, 9, 10])
CAPTIONS = torch.tensor([0, 1, 1, 2, 3, 0])  # of pairs: 0 and 5, 1 and 2 have one caption


def embeds(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, 8, generator=generator), dim=1)


def kind_of(i, j):
    """What image i and text j are to each other."""
    if i == j or CAPTIONS[i] == CAPTIONS[j]:
        return "right"
    return "ignored" if GROUPS[i] == GROUPS[j] else "wrong"


def test_softmax_of_pairs_written_out():
    """Each row's right answers share the target evenly; those of its group are in no sum."""
    images, texts = embeds(6, 0), embeds(6, 1)
    logits, total = (images.double() @ texts.double().T * float(SCALE)).tolist(), 0.0
    for table, kinds in ((logits, kind_of), (list(zip(*logits, strict=True)), lambda i, j: kind_of(j, i))):
        for i, row in enumerate(table):
            norm = math.log(sum(math.exp(x) for j, x in enumerate(row) if kinds(i, j) != "ignored"))
            right = [x for j, x in enumerate(row) if kinds(i, j) == "right"]
            total += norm - sum(right) / len(right)
    found = losses.softmax_contrastive_loss(
        images, texts, SCALE, IMAGES, group_ids=GROUPS, caption_ids=CAPTIONS
    )
    assert found.item() == pytest.approx(total / 12, abs=1e-5)


def test_sigmoid_of_pairs_written_out():
    images, texts = embeds(6, 2), embeds(6, 3)
    logits = (images.double() @ texts.double().T * float(SCALE) + float(BIAS)).tolist()
    total = sum(
        math.log1p(math.exp(-x if kind_of(i, j) == "right" else x))
        for i, row in enumerate(logits)
        for j, x in enumerate(row)
        if kind_of(i, j) != "ignored"
    )
    found = losses.sigmoid_contrastive_loss(
        images, texts, SCALE, BIAS, IMAGES, group_ids=GROUPS, caption_ids=CAPTIONS
    )
    assert found.item() == pytest.approx(total / 6, abs=1e-5)


OWNERS = torch.tensor([0, 0, 1, 1, 2, 3, 3, 4, 5, 5])  # the image of each of ten texts
TEXT_CAPTIONS = torch.tensor([0, 1, 2, 1, 3, 4, 5, 6, 0, 7])  # images 0 and 1 share one, 0 and 5 another


def kind_of_text(image, text):
    own = {int(c) for c, owner in zip(TEXT_CAPTIONS, OWNERS, strict=True) if owner == image}
    if int(TEXT_CAPTIONS[text]) in own:
        return "right"
    return "ignored" if GROUPS[image] == GROUPS[OWNERS[text]] else "wrong"


def multi_written_out(images, texts):
    logits, terms = (images.double() @ texts.double().T * float(SCALE)).tolist(), []
    for table, kinds in (
        (logits, kind_of_text),
        (list(zip(*logits, strict=True)), lambda text, image: kind_of_text(image, text)),
    ):
        rows = []
        for i, row in enumerate(table):
            known = [(math.exp(x), kinds(i, j)) for j, x in enumerate(row)]
            everything = sum(x for x, kind in known if kind != "ignored")
            rows.append(math.log(everything / sum(x for x, kind in known if kind == "right")))
        terms.append(sum(rows) / len(rows))
    return sum(terms) / 2


def test_several_texts_written_out_and_over_two_processes():
    images, texts = embeds(6, 4), embeds(10, 5)
    ids = {"group_ids": GROUPS, "caption_ids": TEXT_CAPTIONS}
    whole = losses.multi_positive_softmax_loss(images, texts, SCALE, IMAGES, OWNERS, **ids)
    assert whole.item() == pytest.approx(multi_written_out(images, texts), abs=1e-5)
    everyone = {
        "all_image_embeds": images,
        "all_text_embeds": texts,
        "all_image_ids": IMAGES,
        "all_text_image_ids": OWNERS,
        "all_group_ids": GROUPS,
        "all_caption_ids": TEXT_CAPTIONS,
    }
    shares = [
        losses.multi_positive_softmax_loss(
            images[i], texts[t], SCALE, IMAGES[i], OWNERS[t],
            group_ids=GROUPS[i], caption_ids=TEXT_CAPTIONS[t], **everyone,
        )
        for i, t in ((slice(0, 2), slice(0, 4)), (slice(2, 6), slice(4, 10)))
    ]  # fmt: skip
    assert sum(shares).item() == pytest.approx(whole.item(), abs=1e-5)


def test_sigmoid_of_several_texts_written_out():
    images, texts = embeds(6, 6), embeds(10, 7)
    logits = (images.double() @ texts.double().T * float(SCALE) + float(BIAS)).tolist()
    total = sum(
        math.log1p(math.exp(-x if kind_of_text(i, j) == "right" else x))
        for i, row in enumerate(logits)
        for j, x in enumerate(row)
        if kind_of_text(i, j) != "ignored"
    )
    found = losses.multi_positive_sigmoid_loss(
        images, texts, SCALE, BIAS, IMAGES, OWNERS, group_ids=GROUPS, caption_ids=TEXT_CAPTIONS
    )
    assert found.item() == pytest.approx(total / 6, abs=1e-5)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_the_models_forward_takes_them(loss_type):
    model = tiny_model(loss_type=loss_type)
    features = {"image_features": torch.randn(6, 32), "text_features": torch.randn(6, 32)}
    plain = model(**features, image_ids=IMAGES, return_loss=True).loss
    shared = model(
        **features, image_ids=IMAGES, group_ids=GROUPS, caption_ids=CAPTIONS, return_loss=True
    ).loss
    assert torch.isfinite(shared) and shared != plain

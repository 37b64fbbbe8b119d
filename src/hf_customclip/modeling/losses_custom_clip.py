# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Contrastive losses of one block: this process's images and texts against everybody's.

Pairs: row i of `image_embeds` and row i of `text_embeds` are a pair. `all_*` hold the rows of every process, in
which this process's begin at `offset`; left out, they are the rows themselves. `image_ids` tell captions
of one image apart from negatives: such duplicates count neither as right nor as wrong. So do images of one group
(`group_ids`), such as photographs of one product. Equal captions (`caption_ids`) are right for each other's images.

Images with several texts each: a text is right for the image whose number it bears, and every text of an image
is right for it. There each process gives its share of the loss over all processes, which add up to it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F


def softmax_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    image_ids: torch.Tensor | None = None,
    *,
    same_image: str = "ignore",
    group_ids: torch.Tensor | None = None,
    caption_ids: torch.Tensor | None = None,
    all_image_embeds: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    all_group_ids: torch.Tensor | None = None,
    all_caption_ids: torch.Tensor | None = None,
    offset: int = 0,
) -> torch.Tensor:
    """Symmetric cross-entropy, mean over this process's pairs (CLIP: Radford et al. 2021, figure 3).

    Args:
        image_embeds, text_embeds: (batch, dim), L2-normalised.
        logit_scale: the inverse temperature itself, not its logarithm.
        image_ids: (batch,) integers; equal ones mark captions of one image.
        same_image: "ignore" or "positive", what such captions are to each other.
        group_ids, caption_ids: (batch,) integers; equal ones mark images of one group, and equal captions.
    """
    all_images = image_embeds if all_image_embeds is None else all_image_embeds
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    found = _equal(offset, (image_ids, all_image_ids), (group_ids, all_group_ids))
    same_caption = _equal(offset, (caption_ids, all_caption_ids))
    right, ignored = _right_and_ignored(found, same_caption, same_image)
    image_loss = _cross_entropy(image_embeds, all_texts, logit_scale, right, ignored, offset)
    text_loss = _cross_entropy(text_embeds, all_images, logit_scale, right, ignored, offset)
    return (image_loss + text_loss) / 2


def sigmoid_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    image_ids: torch.Tensor | None = None,
    *,
    same_image: str = "ignore",
    group_ids: torch.Tensor | None = None,
    caption_ids: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    all_group_ids: torch.Tensor | None = None,
    all_caption_ids: torch.Tensor | None = None,
    offset: int = 0,
) -> torch.Tensor:
    """Every image-text pair judged by itself, summed, over this process's images (Zhai et al. 2023)."""
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    logits = _similarity(image_embeds, all_texts) * logit_scale + logit_bias
    signs = -torch.ones_like(logits)
    signs.diagonal(offset).fill_(1)
    found = _equal(offset, (image_ids, all_image_ids), (group_ids, all_group_ids))
    same_caption = _equal(offset, (caption_ids, all_caption_ids))
    right, ignored = _right_and_ignored(found, same_caption, same_image)
    if right is not None:
        signs = signs.masked_fill(right, 1)
    losses = -F.logsigmoid(signs * logits)
    if ignored is not None:
        losses = losses.masked_fill(ignored, 0)
    return losses.sum() / len(image_embeds)


def multi_positive_softmax_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    image_ids: torch.Tensor,
    text_image_ids: torch.Tensor,
    *,
    group_ids: torch.Tensor | None = None,
    caption_ids: torch.Tensor | None = None,
    all_image_embeds: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    all_text_image_ids: torch.Tensor | None = None,
    all_group_ids: torch.Tensor | None = None,
    all_caption_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Minus the log of the probability that falls on any right candidate, a mean over images and one over texts,
    half and half (the sum over positives inside the logarithm: MIL-NCE, Miech et al. 2020, equation 1).

    Args:
        image_embeds: (images, dim), L2-normalised. text_embeds: (texts, dim).
        logit_scale: the inverse temperature itself, not its logarithm.
        image_ids, group_ids: (images,) integers. text_image_ids: (texts,), the image of each text.
        caption_ids: (texts,) integers, the same for equal captions.
    """
    all_images = image_embeds if all_image_embeds is None else all_image_embeds
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    batch = _Batch(
        image_ids if all_image_ids is None else all_image_ids,
        text_image_ids if all_text_image_ids is None else all_text_image_ids,
        group_ids if all_group_ids is None else all_group_ids,
        caption_ids if all_caption_ids is None else all_caption_ids,
    )
    images = _log_sum_loss(image_embeds, all_texts, logit_scale, *batch.texts_of_images(image_ids, group_ids))
    texts = _log_sum_loss(
        text_embeds, all_images, logit_scale, *batch.images_of_texts(text_image_ids, caption_ids)
    )
    return (images.sum() / len(all_images) + texts.sum() / len(all_texts)) / 2


def multi_positive_sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    image_ids: torch.Tensor,
    text_image_ids: torch.Tensor,
    *,
    group_ids: torch.Tensor | None = None,
    caption_ids: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    all_text_image_ids: torch.Tensor | None = None,
    all_group_ids: torch.Tensor | None = None,
    all_caption_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every image-text pair judged by itself, summed, over all processes' images; shapes as above."""
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    batch = _Batch(
        image_ids if all_image_ids is None else all_image_ids,
        text_image_ids if all_text_image_ids is None else all_text_image_ids,
        group_ids if all_group_ids is None else all_group_ids,
        caption_ids if all_caption_ids is None else all_caption_ids,
    )
    right, ignored = batch.texts_of_images(image_ids, group_ids)
    logits = _similarity(image_embeds, all_texts) * logit_scale + logit_bias
    losses = -F.logsigmoid(torch.where(right, logits, -logits))
    if ignored is not None:
        losses = losses.masked_fill(ignored, 0)
    return losses.sum() / len(batch.image_ids)


def nested_loss(
    loss: Callable[..., torch.Tensor],
    widths: list[int],
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    *terms: torch.Tensor | None,
    **options: Any,
) -> torch.Tensor:
    """Mean of a loss over the embeddings cut to each of `widths` first numbers and normalised anew (Matryoshka
    representation learning, Kusupati et al. 2022, equation 1, with equal weights); without widths the loss."""
    if not widths:
        return loss(image_embeds, text_embeds, *terms, **options)
    losses = []
    for width in widths:
        rest = {
            name: _cut(rows, width) if name.endswith("_embeds") else rows for name, rows in options.items()
        }
        losses.append(loss(_cut(image_embeds, width), _cut(text_embeds, width), *terms, **rest))
    return torch.stack(losses).mean()


def _cut(embeds: torch.Tensor, width: int) -> torch.Tensor:
    return F.normalize(embeds[:, :width], dim=-1)


class _Batch:
    """Which texts of all processes are right for an image, and which of its group are neither right nor wrong."""

    def __init__(
        self,
        image_ids: torch.Tensor,
        text_image_ids: torch.Tensor,
        group_ids: torch.Tensor | None,
        caption_ids: torch.Tensor | None,
    ) -> None:
        self.image_ids, self.text_image_ids = image_ids, text_image_ids
        self.group_ids, self.caption_ids = group_ids, caption_ids

    def texts_of_images(
        self, image_ids: torch.Tensor, group_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(images, all texts), twice: the right ones, and those ignored, if there are groups."""
        right = self._right(image_ids, self.text_image_ids, self.caption_ids)
        if group_ids is None:
            return right, None
        return right, (group_ids[:, None] == self._groups_of(self.text_image_ids)[None]) & ~right

    def images_of_texts(
        self, text_image_ids: torch.Tensor, caption_ids: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(texts, all images), as above."""
        right = self._right(self.image_ids, text_image_ids, caption_ids).T
        if self.group_ids is None:
            return right, None
        return right, (self._groups_of(text_image_ids)[:, None] == self.group_ids[None]) & ~right

    def _right(
        self, image_ids: torch.Tensor, text_image_ids: torch.Tensor, caption_ids: torch.Tensor | None
    ) -> torch.Tensor:
        right = image_ids[:, None] == text_image_ids[None]
        if caption_ids is None or self.caption_ids is None:
            return right
        captions, places = torch.unique(self.caption_ids, return_inverse=True)
        has = torch.zeros(len(image_ids), len(captions), dtype=torch.bool, device=right.device)
        rows, texts = (image_ids[:, None] == self.text_image_ids[None]).nonzero(as_tuple=True)
        has[rows, places[texts]] = True
        return has[:, torch.searchsorted(captions, caption_ids)]

    def _groups_of(self, text_image_ids: torch.Tensor) -> torch.Tensor:
        assert self.group_ids is not None
        ordered, order = self.image_ids.sort()
        return self.group_ids[order[torch.searchsorted(ordered, text_image_ids)]]


def _log_sum_loss(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: torch.Tensor,
    right: torch.Tensor,
    ignored: torch.Tensor | None,
) -> torch.Tensor:
    """(queries,); every query must have a right key."""
    logits = _similarity(queries, keys) * scale
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    return logits.logsumexp(1) - logits.masked_fill(~right, -torch.inf).logsumexp(1)


def _cross_entropy(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: torch.Tensor,
    right: torch.Tensor | None,
    ignored: torch.Tensor | None,
    offset: int,
) -> torch.Tensor:
    """Besides each row's own pair others may be right, with equal shares, and others ignored."""
    logits = _similarity(queries, keys) * scale
    if right is not None:
        # Not -inf: 0 times it is no number.
        logits = logits if ignored is None else logits.masked_fill(ignored, -1e9)
        shares = right.to(logits.dtype)
        shares.diagonal(offset).fill_(1)
        return F.cross_entropy(logits, shares / shares.sum(1, keepdim=True))
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(queries), device=logits.device) + offset)


def _similarity(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    # In float32 whatever autocast says: bf16 keeps 8 bits, and logits reach 100.
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ keys.float().T


def _equal(offset: int, *ids: tuple[torch.Tensor | None, torch.Tensor | None]) -> torch.Tensor | None:
    """True where a row and a column share any of the ids (this process's, all) but are not each other's pair."""
    found = None
    for own, everyone in ids:
        if own is not None:
            same = own[:, None] == (own if everyone is None else everyone)[None]
            found = same if found is None else found | same
    if found is not None:
        found.diagonal(offset).fill_(False)
    return found


def _right_and_ignored(
    found: torch.Tensor | None, same_caption: torch.Tensor | None, same_image: str
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Of pairs of one image or group, and of equal captions: which are right, which are ignored."""
    if found is None:
        return same_caption, None
    if same_image == "positive":
        return (found if same_caption is None else found | same_caption), None
    return same_caption, (found if same_caption is None else found & ~same_caption)

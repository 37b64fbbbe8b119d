# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Contrastive losses of one block: this process's images and texts against everybody's.

Pairs: row i of `image_embeds` and row i of `text_embeds` are a pair. `all_*` hold the rows of every process, in
which this process's begin at `offset`; left out, they are the rows themselves. `image_ids` tell captions
of one image apart from negatives: such duplicates count neither as right nor as wrong.

Images with several texts each: a text is right for the image whose number it bears, and every text of an image
is right for it. There each process gives its share of the loss over all processes, which add up to it.
"""

import torch
import torch.nn.functional as F


def softmax_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    image_ids: torch.Tensor | None = None,
    *,
    same_image: str = "ignore",
    all_image_embeds: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    offset: int = 0,
) -> torch.Tensor:
    """Symmetric cross-entropy, mean over this process's pairs (CLIP: Radford et al. 2021, figure 3).

    Args:
        image_embeds, text_embeds: (batch, dim), L2-normalised.
        logit_scale: the inverse temperature itself, not its logarithm.
        image_ids: (batch,) integers; equal ones mark captions of one image.
        same_image: "ignore" or "positive", what such captions are to each other.
    """
    all_images = image_embeds if all_image_embeds is None else all_image_embeds
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    found = _same_image(image_ids, all_image_ids, offset)
    image_loss = _cross_entropy(image_embeds, all_texts, logit_scale, found, same_image, offset)
    text_loss = _cross_entropy(text_embeds, all_images, logit_scale, found, same_image, offset)
    return (image_loss + text_loss) / 2


def sigmoid_contrastive_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    image_ids: torch.Tensor | None = None,
    *,
    same_image: str = "ignore",
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    offset: int = 0,
) -> torch.Tensor:
    """Every image-text pair judged by itself, summed, over this process's images (Zhai et al. 2023)."""
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    logits = _similarity(image_embeds, all_texts) * logit_scale + logit_bias
    signs = -torch.ones_like(logits)
    signs.diagonal(offset).fill_(1)
    found = _same_image(image_ids, all_image_ids, offset)
    if found is not None and same_image == "positive":
        signs = signs.masked_fill(found, 1)
    losses = -F.logsigmoid(signs * logits)
    if found is not None and same_image == "ignore":
        losses = losses.masked_fill(found, 0)
    return losses.sum() / len(image_embeds)


def multi_positive_softmax_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    image_ids: torch.Tensor,
    text_image_ids: torch.Tensor,
    *,
    all_image_embeds: torch.Tensor | None = None,
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    all_text_image_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Minus the log of the probability that falls on any right candidate, a mean over images and one over texts,
    half and half (the sum over positives inside the logarithm: MIL-NCE, Miech et al. 2020, equation 1).

    Args:
        image_embeds: (images, dim), L2-normalised. text_embeds: (texts, dim).
        logit_scale: the inverse temperature itself, not its logarithm.
        image_ids: (images,) integers. text_image_ids: (texts,), the image of each text.
    """
    all_images = image_embeds if all_image_embeds is None else all_image_embeds
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    all_image_ids = image_ids if all_image_ids is None else all_image_ids
    all_text_ids = text_image_ids if all_text_image_ids is None else all_text_image_ids
    images = _log_sum_loss(image_embeds, all_texts, logit_scale, image_ids, all_text_ids)
    texts = _log_sum_loss(text_embeds, all_images, logit_scale, text_image_ids, all_image_ids)
    return (images.sum() / len(all_images) + texts.sum() / len(all_texts)) / 2


def multi_positive_sigmoid_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    logit_bias: torch.Tensor,
    image_ids: torch.Tensor,
    text_image_ids: torch.Tensor,
    *,
    all_text_embeds: torch.Tensor | None = None,
    all_image_ids: torch.Tensor | None = None,
    all_text_image_ids: torch.Tensor | None = None,
) -> torch.Tensor:
    """Every image-text pair judged by itself, summed, over all processes' images; shapes as above."""
    all_texts = text_embeds if all_text_embeds is None else all_text_embeds
    all_text_ids = text_image_ids if all_text_image_ids is None else all_text_image_ids
    right = image_ids[:, None] == all_text_ids[None]
    logits = _similarity(image_embeds, all_texts) * logit_scale + logit_bias
    losses = -F.logsigmoid(torch.where(right, logits, -logits))
    return losses.sum() / len(image_ids if all_image_ids is None else all_image_ids)


def _log_sum_loss(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: torch.Tensor,
    query_ids: torch.Tensor,
    key_ids: torch.Tensor,
) -> torch.Tensor:
    """(queries,); every query must have a right key."""
    logits = _similarity(queries, keys) * scale
    wrong = query_ids[:, None] != key_ids[None]
    return logits.logsumexp(1) - logits.masked_fill(wrong, -torch.inf).logsumexp(1)


def _cross_entropy(
    queries: torch.Tensor,
    keys: torch.Tensor,
    scale: torch.Tensor,
    found: torch.Tensor | None,
    same_image: str,
    offset: int,
) -> torch.Tensor:
    logits = _similarity(queries, keys) * scale
    if found is not None and same_image == "positive":
        right = found.to(logits.dtype)
        right.diagonal(offset).fill_(1)
        return F.cross_entropy(logits, right / right.sum(1, keepdim=True))
    if found is not None:
        logits = logits.masked_fill(found, -torch.inf)
    return F.cross_entropy(logits, torch.arange(len(queries), device=logits.device) + offset)


def _similarity(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    # In float32 whatever autocast says: bf16 keeps 8 bits, and logits reach 100.
    with torch.autocast(queries.device.type, enabled=False):
        return queries.float() @ keys.float().T


def _same_image(
    image_ids: torch.Tensor | None, all_image_ids: torch.Tensor | None, offset: int
) -> torch.Tensor | None:
    """True where a row and a column show one image but are not each other's pair."""
    if image_ids is None:
        return None
    found = image_ids[:, None] == (image_ids if all_image_ids is None else all_image_ids)[None]
    found.diagonal(offset).fill_(False)
    return found

"""Distillation: a teacher's similarities of a batch as soft targets beside the contrastive loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def distillation_loss(
    image_embeds: torch.Tensor,
    text_embeds: torch.Tensor,
    logit_scale: torch.Tensor,
    teacher_images: torch.Tensor,
    teacher_texts: torch.Tensor,
    *,
    all_image_embeds: torch.Tensor,
    all_text_embeds: torch.Tensor,
    all_teacher_images: torch.Tensor,
    all_teacher_texts: torch.Tensor,
) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's probabilities from the teacher's, of texts given an image and of
    images given a text, half and half (contrastive relational distillation: CLIP-KD, Yang et al. 2024).

    As the contrastive losses of images with several texts each: this process's rows against everybody's, a share of
    the loss over all processes.

    Args:
        image_embeds: (images, dim), L2-normalised. text_embeds: (texts, dim).
        logit_scale: the inverse temperature itself, not its logarithm.
        teacher_images, teacher_texts: (images, width), (texts, width); their products are the teacher's logits.
    """
    images = _divergence(image_embeds * logit_scale, all_text_embeds, teacher_images, all_teacher_texts)
    texts = _divergence(text_embeds * logit_scale, all_image_embeds, teacher_texts, all_teacher_images)
    return (images / len(all_image_embeds) + texts / len(all_text_embeds)) / 2


def _divergence(
    queries: torch.Tensor, keys: torch.Tensor, teacher_queries: torch.Tensor, teacher_keys: torch.Tensor
) -> torch.Tensor:
    # In float32 whatever autocast says: bf16 keeps 8 bits, and logits reach 100.
    with torch.autocast(queries.device.type, enabled=False):
        student = (queries.float() @ keys.float().T).log_softmax(1)
        teacher = (teacher_queries.float() @ teacher_keys.float().T).log_softmax(1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True)

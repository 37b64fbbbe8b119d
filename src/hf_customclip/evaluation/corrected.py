"""Retrieval with the hubness correction, by the same protocol."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..inference.hubness import HubnessBank, append_bias, append_one
from .reports import WAYS
from .retrieval import RECALL_AT, retrieval_metrics

PREFIX = "csls_"


def corrected_retrieval_metrics(
    image_embeds: Tensor, text_embeds: Tensor, image_ids: Tensor, text_image_ids: Tensor, bank: HubnessBank
) -> dict[str, float]:
    """The recalls and rsum of cosines minus each candidate's hubness bias, named `csls_t2i_recall@1` and so on.

    The bank must come from training data: then nothing of the data that are measured enters the correction.
    """
    ids = (image_ids, text_image_ids)
    images = append_bias(image_embeds, bank.image_bias(image_embeds))
    texts = append_bias(text_embeds, bank.text_bias(text_embeds))
    found = {
        "t2i_": retrieval_metrics(images, append_one(text_embeds), *ids),
        "i2t_": retrieval_metrics(append_one(image_embeds), texts, *ids),
    }
    metrics = {
        name: value
        for direction, both in found.items()
        for name, value in both.items()
        if name.startswith(f"{direction}recall@")
    }
    metrics["rsum"] = 100 * sum(metrics.values())
    return {f"{PREFIX}{name}": value for name, value in metrics.items()}


def format_corrected(metrics: Mapping[str, float]) -> str:
    """The corrected recalls in three lines for the terminal, to stand below the raw ones."""
    lines = ["corrected for hubs by the model's bank of training embeddings (CSLS):"]
    for way, label in WAYS.items():
        recalls = [f"R@{k} {metrics[f'{PREFIX}{way}_recall@{k}']:.3f}" for k in RECALL_AT]
        lines.append(f"{label}: {', '.join(recalls)}")
    return "\n".join([*lines, f"rsum {metrics[f'{PREFIX}rsum']:.1f} of 600"])

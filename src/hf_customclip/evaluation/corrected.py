"""Retrieval with the hubness correction, by the same protocol."""

from __future__ import annotations

from torch import Tensor

from ..inference.hubness import HubnessBank, append_bias, append_one
from .retrieval import retrieval_metrics

PREFIX = "csls_"


def corrected_retrieval_metrics(
    image_embeds: Tensor, text_embeds: Tensor, image_ids: Tensor, text_image_ids: Tensor, bank: HubnessBank
) -> dict[str, float]:
    """`retrieval_metrics` of cosines minus each candidate's hubness bias, named `csls_t2i_recall@1` and so on.

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
        if name.startswith(direction)
    }
    metrics["rsum"] = 100 * sum(value for name, value in metrics.items() if "recall@" in name)
    return {f"{PREFIX}{name}": value for name, value in metrics.items()}

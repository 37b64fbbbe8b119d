"""How far measured recalls can be trusted: bootstrap intervals over images, of one model and between two.

An image and its captions are drawn together, with replacement, as often as there are images (Efron 1979, the
percentile method); every query keeps its rank among all the candidates. Two models are compared on the same
draws, so that what is hard for both does not hide their difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .retrieval import RECALL_AT, RetrievalRanks

SAMPLES = 1000
LEVEL = 0.95
SAMPLES_AT_ONCE = 50  # draws of 50 x 30,000 images: 12 MB

Intervals = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Difference:
    """One metric of two models on the same data: `second - first`, and where it lies 95 times in 100.

    Args:
        first, second: the metric of either model.
        low, high: the interval of their difference.
    """

    first: float
    second: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """By how much the second model is higher."""
        return self.second - self.first

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def bootstrap_intervals(
    ranks: RetrievalRanks, samples: int = SAMPLES, level: float = LEVEL, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """`{name: (low, high)}` of the six recalls and `rsum`, under the names of `retrieval_metrics`."""
    drawn = _resampled([ranks], samples, seed)[0]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return {
        name: (lowest, highest)
        for name, lowest, highest in zip(_names(), low.tolist(), high.tolist(), strict=True)
    }


def paired_differences(
    first: RetrievalRanks,
    second: RetrievalRanks,
    samples: int = SAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Difference]:
    """Of the six recalls and `rsum`: both models' values and the interval of the difference.

    Raises:
        ValueError: the ranks are of different images or captions.
    """
    if not torch.equal(first.image_of_text.cpu(), second.image_of_text.cpu()):
        raise ValueError("The two models were measured on different images or captions.")
    one, other = _resampled([first, second], samples, seed)
    low, high = np.quantile(other - one, [(1 - level) / 2, (1 + level) / 2], axis=0).tolist()
    values = first.metrics(), second.metrics()
    return {
        name: Difference(values[0][name], values[1][name], low[column], high[column])
        for column, name in enumerate(_names())
    }


def _names() -> list[str]:
    return [f"{way}_recall@{k}" for way in ("i2t", "t2i") for k in RECALL_AT] + ["rsum"]


def _resampled(models: list[RetrievalRanks], samples: int, seed: int) -> list[np.ndarray]:
    """For each model `[samples, 7]`: its metrics on the same draws of images."""
    hits = [_hits(ranks) for ranks in models]
    images = len(models[0].images)
    captions = np.bincount(models[0].image_of_text.cpu().numpy(), minlength=images)
    generator = np.random.default_rng(seed)
    found: list[list[np.ndarray]] = [[] for _ in models]
    for start in range(0, samples, SAMPLES_AT_ONCE):
        size = min(SAMPLES_AT_ONCE, samples - start)
        weights = generator.multinomial(images, np.full(images, 1 / images), size=size).astype(np.float64)
        counts = np.repeat(np.stack([np.full(size, images), weights @ captions], 1), len(RECALL_AT), axis=1)
        for model, of_images in zip(found, hits, strict=True):
            model.append(weights @ of_images / counts)
    recalls = [np.concatenate(model) for model in found]
    return [np.column_stack([recall, 100 * recall.sum(1)]) for recall in recalls]


def _hits(ranks: RetrievalRanks) -> np.ndarray:
    """`[num_images, 6]`: whether the image is found at 1, 5, 10, and how many of its captions are."""
    by_image = [ranks.images <= k for k in RECALL_AT]
    by_text = [_sum_by_image(ranks.texts <= k, ranks) for k in RECALL_AT]
    return torch.stack([column.double().cpu() for column in by_image + by_text], 1).numpy()


def _sum_by_image(values: Tensor, ranks: RetrievalRanks) -> Tensor:
    total = torch.zeros(len(ranks.images), dtype=torch.double, device=values.device)
    return total.index_add_(0, ranks.image_of_text, values.double())

"""What a model that knows nothing would score, to put next to what was measured."""

from collections import Counter
from collections.abc import Callable
from math import prod

import numpy as np
import torch

from .retrieval import RECALL_AT, ArrayLike


def chance_recall(k: int, n_candidates: int, positives: int = 1) -> float:
    """Probability that a random top `k` of `n_candidates` holds at least one of `positives` right ones.

    Hypergeometric: 1 - C(n - positives, k) / C(n, k).
    """
    if k < 1 or not 1 <= positives <= n_candidates:
        raise ValueError(
            f"chance_recall needs k of at least 1 and 1 to n_candidates positives, but k is {k}, "
            f"n_candidates is {n_candidates} and positives is {positives}."
        )
    # The same ratio written over the few positives: each of them must lie outside the top k.
    return 1 - prod(max(0, n_candidates - k - i) / (n_candidates - i) for i in range(positives))


def retrieval_chance(image_ids: ArrayLike, text_image_ids: ArrayLike) -> dict[str, float]:
    """The expected values of `retrieval_metrics` under random ranking, under the same names.

    The median rank is the first rank at which half of the queries are expected to be found.
    """
    unique_ids = np.unique(torch.as_tensor(image_ids).cpu().numpy())
    texts_of_images = Counter(torch.as_tensor(text_image_ids).cpu().tolist())
    num_texts = sum(texts_of_images.values())
    # How many queries have how many right candidates.
    images_with = Counter(texts_of_images[i] for i in unique_ids.tolist())
    metrics = _chance_metrics("i2t_", images_with, num_texts)
    metrics |= _chance_metrics("t2i_", Counter({1: num_texts}), len(unique_ids))
    metrics["rsum"] = 100 * sum(value for name, value in metrics.items() if "recall@" in name)
    return metrics


def _chance_metrics(prefix: str, queries_with: Counter[int], n_candidates: int) -> dict[str, float]:
    total = sum(queries_with.values())

    def recall(k: int) -> float:
        return sum(n * chance_recall(k, n_candidates, p) for p, n in queries_with.items()) / total

    metrics = {f"{prefix}recall@{k}": recall(k) for k in RECALL_AT}
    metrics[f"{prefix}median_rank"] = float(_first_rank_with(recall, 0.5, n_candidates))
    # The best of p right ones among n has the expected position (n + 1) / (p + 1).
    mean = sum(n * (n_candidates + 1) / (p + 1) for p, n in queries_with.items()) / total
    metrics[f"{prefix}mean_rank"] = mean
    return metrics


def _first_rank_with(recall: Callable[[int], float], level: float, n_candidates: int) -> int:
    low, high = 1, n_candidates
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if recall(middle) >= level else (middle + 1, high)
    return low

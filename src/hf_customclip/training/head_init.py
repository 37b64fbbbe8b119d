"""Heads that start at regularised canonical correlation analysis (Hotelling 1936; ridge: Vinod 1976).

On features that are kept anyway it is a closed form of seconds. Trained on from there, few data go further
than from random heads: benchmarks/sample_recipe.md says how much.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from ..modeling.heads_custom_clip import MlpProjection

# Added to both covariances, in units of the mean variance of a feature.
RIDGE = 2.0

Pairs = tuple[torch.Tensor, torch.Tensor]


@torch.no_grad()
def start_heads_at_cca(image_head: nn.Module, text_head: nn.Module, pairs: Iterable[Pairs]) -> None:
    """Set both heads so that they project onto the canonical directions, each weighted by its correlation.

    The images' and texts' cosine is then a sum over canonical pairs, each times its correlation. Without a
    bias in the heads, the mean is taken away by taking away its direction.
    """
    means, (image_map, text_map) = _canonical_maps(pairs)
    for head, mean, projection in zip((image_head, text_head), means, (image_map, text_map), strict=True):
        linear = head.linear1 if isinstance(head, MlpProjection) else head
        assert isinstance(linear, nn.Linear)
        weight = linear.weight
        rotation = _rotation(len(weight), projection.shape[1])
        mapped = rotation @ projection[:, : rotation.shape[1]].T
        mapped -= torch.outer(mapped @ mean, mean) / (mean @ mean)
        weight.copy_(mapped)
        if isinstance(head, MlpProjection):
            head.linear2.weight.zero_()
            head.layer_norm.reset_parameters()


def _canonical_maps(pairs: Iterable[Pairs], ridge: float = RIDGE) -> tuple[Pairs, Pairs]:
    """Means, and (width, directions) for images and texts, strongest direction first, in float64."""
    count, totals = 0, [torch.zeros((), dtype=torch.float64)] * 5
    for batch in pairs:
        x, y = (rows.to("cpu", torch.float64) for rows in batch)
        new = (x.sum(0), y.sum(0), x.T @ x, y.T @ y, x.T @ y)
        totals = [total + more for total, more in zip(totals, new, strict=True)]
        count += len(x)
    x_mean, y_mean, xx, yy, xy = (total / count for total in totals)
    x_roots = _inverse_root(xx - torch.outer(x_mean, x_mean), ridge)
    y_roots = _inverse_root(yy - torch.outer(y_mean, y_mean), ridge)
    across = xy - torch.outer(x_mean, y_mean)
    left, correlations, right = torch.linalg.svd(x_roots @ across @ y_roots, full_matrices=False)
    weights = correlations.sqrt()
    return (x_mean, y_mean), (x_roots @ left * weights, y_roots @ right.T * weights)


def _inverse_root(covariance: torch.Tensor, ridge: float) -> torch.Tensor:
    width = len(covariance)
    eye = torch.eye(width, dtype=covariance.dtype)
    values, vectors = torch.linalg.eigh(covariance + ridge * covariance.trace() / width * eye)
    return vectors / values.sqrt() @ vectors.T


def _rotation(size: int, directions: int) -> torch.Tensor:
    """(size, directions or as many as fit) orthonormal columns, the same for both heads.

    They spread the directions over all units, and are orthogonal to the constant that a layer norm removes.
    """
    generator = torch.Generator().manual_seed(0)
    columns = torch.randn(size, min(directions, size - 1), dtype=torch.float64, generator=generator)
    return torch.linalg.qr(columns - columns.mean(0))[0]

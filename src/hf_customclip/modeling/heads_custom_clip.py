# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Projection heads: from a tower's feature into the shared space."""

import torch
import torch.nn.functional as F
from torch import nn


class FeatureInput(nn.Module):
    """What a head does to a feature before its first layer: standardise it, then drop some of its numbers.

    `mean` and `scale` (one over the standard deviation) are statistics of the training features. They are no
    parameters: nothing trains or decays them. Until they are set they change nothing.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, dropout: float, standardize: bool) -> None:
        super().__init__()
        self.standardize = standardize
        self.dropout = nn.Dropout(dropout)
        if standardize:
            self.register_buffer("mean", torch.zeros(width))
            self.register_buffer("scale", torch.ones(width))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, width) to the same shape."""
        if self.standardize:
            features = (features - self.mean) * self.scale
        dropped: torch.Tensor = self.dropout(features)
        return dropped


class LinearProjection(nn.Linear):
    """One matrix."""

    def __init__(
        self, in_features: int, out_features: int, feature_dropout: float = 0.0, standardize: bool = False
    ) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.input = FeatureInput(in_features, feature_dropout, standardize)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, out_features)."""
        return super().forward(self.input(features))


class MlpProjection(nn.Module):
    """The tutorial's residual head: LayerNorm(e1 + Dropout(W2 gelu(e1))) with e1 = W1 x."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        dropout: float,
        feature_dropout: float = 0.0,
        standardize: bool = False,
    ) -> None:
        super().__init__()
        self.input = FeatureInput(in_features, feature_dropout, standardize)
        self.linear1 = nn.Linear(in_features, out_features, bias=False)
        self.linear2 = nn.Linear(out_features, out_features, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, out_features)."""
        projected = self.linear1(self.input(features))
        embeds: torch.Tensor = self.layer_norm(projected + self.dropout(self.linear2(F.gelu(projected))))
        return embeds


def build_projection(
    kind: str,
    in_features: int,
    out_features: int,
    dropout: float,
    feature_dropout: float = 0.0,
    standardize: bool = False,
) -> LinearProjection | MlpProjection:
    """The head named by `CustomClipConfig.projection_type`."""
    if kind == "linear":
        return LinearProjection(in_features, out_features, feature_dropout, standardize)
    return MlpProjection(in_features, out_features, dropout, feature_dropout, standardize)

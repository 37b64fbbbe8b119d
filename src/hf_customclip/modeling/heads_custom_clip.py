# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Projection heads: from a tower's pooled feature into the shared space."""

import torch
import torch.nn.functional as F
from torch import nn


class MlpProjection(nn.Module):
    """The tutorial's residual head: LayerNorm(e1 + Dropout(W2 gelu(e1))) with e1 = W1 x."""

    def __init__(self, in_features: int, out_features: int, dropout: float) -> None:
        super().__init__()
        self.linear1 = nn.Linear(in_features, out_features, bias=False)
        self.linear2 = nn.Linear(out_features, out_features, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.layer_norm = nn.LayerNorm(out_features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, in_features) to (batch, out_features)."""
        projected = self.linear1(features)
        return self.layer_norm(projected + self.dropout(self.linear2(F.gelu(projected))))


def build_projection(kind: str, in_features: int, out_features: int, dropout: float) -> nn.Module:
    """The head named by `CustomClipConfig.projection_type`."""
    if kind == "linear":
        return nn.Linear(in_features, out_features, bias=False)
    return MlpProjection(in_features, out_features, dropout)

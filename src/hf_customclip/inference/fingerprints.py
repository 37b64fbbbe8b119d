"""Fingerprints of weights; those of bytes and values are of `_digests`."""

from __future__ import annotations

from torch import nn

from .._digests import digest as digest
from .._digests import digest_of_json as digest_of_json
from ..modeling.heads_only_custom_clip import tower_digest


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all weights, as heads-only checkpoints name their towers.

    Computed once until a weight changes.
    """
    return tower_digest(module, "pooler")

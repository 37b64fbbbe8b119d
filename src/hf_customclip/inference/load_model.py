"""A saved model with its processor, ready to use."""

from __future__ import annotations

import os
from typing import Any


def load_model(name: str | os.PathLike[str], truncate_dim: int | None = None) -> tuple[Any, Any]:
    """The model of a folder or Hub id, to be used, not trained, and its processor.

    The model is a `CustomClipModel` or another dual encoder of transformers (CLIP, SigLIP), in evaluation mode,
    on the accelerator where there is one.

    Args:
        truncate_dim: cut embeddings to so many first numbers (`CustomClipConfig.truncate_dim`).

    Raises:
        ValueError: the model cannot cut its embeddings so.
    """
    import torch
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(name).eval()
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    if truncate_dim is not None:
        whole = model.config.projection_dim if hasattr(model.config, "truncate_dim") else 0
        if not 0 < truncate_dim <= whole:
            allowed = f"from 1 to {whole} numbers" if whole else "only of models made by hf-customclip"
            raise ValueError(f"Embeddings of {name} cannot be cut to {truncate_dim} (--dim): {allowed}.")
        model.config.truncate_dim = truncate_dim
    return model, AutoProcessor.from_pretrained(name)

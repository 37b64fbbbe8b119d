"""A saved model with its processor, ready to use."""

from __future__ import annotations

import os
from typing import Any


def load_model(name: str | os.PathLike[str]) -> tuple[Any, Any]:
    """The model of a folder or Hub id, to be used, not trained, and its processor.

    The model is a `CustomClipModel` or another dual encoder of transformers (CLIP, SigLIP), in evaluation mode,
    on the accelerator where there is one.
    """
    import torch
    from transformers import AutoModel, AutoProcessor

    model = AutoModel.from_pretrained(name).eval()
    if torch.accelerator.is_available():
        model = model.to(torch.accelerator.current_accelerator())
    return model, AutoProcessor.from_pretrained(name)

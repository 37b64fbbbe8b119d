"""Folders as training leaves them (a tiny model, its processor and a card), and what of them the Hub holds."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import tiny_model, tiny_processor

from hf_customclip import CustomClipModel
from hf_customclip.hub.check_folder import published_files

from .server import LocalHub

CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# A tiny model\n"


def seeded_model(seed: int = 0) -> CustomClipModel:
    """`tiny_model`, with other weights for another seed."""
    model = tiny_model()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(seed * torch.randn(parameter.shape, generator=generator))
    return model


def save_ready(
    folder: Path, seed: int = 0, names: tuple[str | None, str | None] = (None, None), **save: object
) -> Path:
    """Save a model that is ready to publish; `names` are its towers', `save` goes to `save_pretrained`."""
    model = seeded_model(seed)
    model.config.vision_name, model.config.text_name = names
    model.save_pretrained(folder, **save)
    tiny_processor().save_pretrained(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder


def held(hub: LocalHub, repo_id: str = "alice/m", revision: str = "main") -> dict[str, bytes]:
    """What a repository holds at a revision."""
    files = hub.repo(repo_id).resolve(revision).files
    return {name: file.content for name, file in files.items() if name != ".gitattributes"}


def local(folder: Path) -> dict[str, bytes]:
    """What of a folder is to be published."""
    return {name: (folder / name).read_bytes() for name in published_files(folder)}

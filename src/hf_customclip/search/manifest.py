"""The file that says what an index is made of, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .._files import read_json

MANIFEST, FORMAT = "index.json", 1


def is_index(directory: Path) -> bool:
    """Whether there is an index, whole or damaged."""
    return (directory / MANIFEST).exists()


def read_manifest(directory: Path) -> dict[str, Any]:
    """What an index is made of.

    Raises:
        FileNotFoundError: there is no index.
        ValueError: it is damaged, or of a later version.
    """
    if not is_index(directory):
        raise FileNotFoundError(
            f"There is no index in {str(directory)!r}: make one with `hf-customclip index MODEL IMAGES DIRECTORY`."
        )
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict):
        raise ValueError(f"{directory / MANIFEST} is damaged: delete it, and index the images again.")
    if manifest.get("format") != FORMAT:
        raise ValueError(f"{directory} is an index of a later hf-customclip: upgrade to read it.")
    return manifest

"""The `hf-customclip` command."""

from .app import main

__all__ = ["main"]

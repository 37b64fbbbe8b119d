"""Digests at memory speed (XXH3, 128 bits): of bytes, of small JSON values, of an image's content."""

from __future__ import annotations

import json
import os
from typing import Any

import xxhash


def digest(data: Any) -> str:
    """32 hexadecimal digits for anything with a buffer."""
    return xxhash.xxh3_128_hexdigest(data)


def digest_of_json(value: Any) -> str:
    """The same for equal values, whatever the order of their dictionaries."""
    return digest(json.dumps(value, sort_keys=True, default=str).encode())


def image_identity(content: Any, path: str | None) -> bytes:
    """16 bytes by which images are told apart: of the file's bytes where they are at hand.

    Else of the file's path, size and time of last change, so that no gigabytes are read; a file that is not there
    has an identity too.

    Args:
        content: the bytes, or anything with a buffer; None where only the path is known.
    """
    if content is not None:
        return xxhash.xxh3_128_digest(content)
    try:
        state = os.stat(path or "")
    except OSError:
        return xxhash.xxh3_128_digest(f"no file {path}".encode())
    return xxhash.xxh3_128_digest(f"{path} {state.st_size} {state.st_mtime_ns}".encode())

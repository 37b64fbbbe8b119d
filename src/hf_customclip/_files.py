"""Small files written whole or not at all.

Nothing is forced to the disk: what a power cut leaves half written has to be told when it is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A name to write to, which takes the place of `file` at the end if all went well."""
    name = file.with_name(f"{file.name}.{uuid4().hex}.tmp")
    try:
        yield name
        os.replace(name, file)
    finally:
        name.unlink(missing_ok=True)


def write_text(file: Path, text: str) -> Path:
    """Write it as UTF-8, whole or not at all; return the path."""
    with replacing(file) as name:
        name.write_text(text, encoding="utf-8")
    return file


def write_json(file: Path, value: Any) -> None:
    """Write it whole or not at all; what JSON has no form for as its text."""
    write_text(file, json.dumps(value, indent=2, default=str) + "\n")


def read_json(file: Path) -> Any:
    """The content of a JSON file; None where it is missing or broken."""
    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def readable_size(count: float) -> str:
    """1,234,567 bytes as "1.2 MB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"

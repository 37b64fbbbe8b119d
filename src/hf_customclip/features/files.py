"""Small files written whole or not at all, and space on the disk.

Nothing is forced to the disk: what a power cut leaves half written is told by checksums when it is read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
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


def read_json(file: Path) -> Any:
    """The content of a JSON file; None where it is missing or broken."""
    try:
        return json.loads(file.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def write_json(file: Path, value: Any) -> None:
    """Write it whole or not at all."""
    with replacing(file) as name:
        name.write_text(json.dumps(value, indent=1), encoding="utf-8")


@contextmanager
def needing_space(folder: Path, needed: int) -> Iterator[None]:
    """Raise OSError, with the numbers, where `needed` bytes do not fit, or in the end did not."""
    free = shutil.disk_usage(folder).free
    full = OSError(
        errno.ENOSPC,
        f"The kept features need {readable_size(needed)}, and {folder} has {readable_size(free)} free: "
        "make space, choose another feature_cache_dir, or train with feature_cache='never'",
    )
    if free < needed:
        raise full
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise full from error
        raise


def readable_size(count: float) -> str:
    """1,234,567 bytes as "1.2 MB"."""
    if count < 1000:
        return f"{count:.0f} bytes"
    for unit in ("KB", "MB", "GB"):
        count /= 1000
        if count < 1000:
            return f"{count:.1f} {unit}"
    return f"{count / 1000:.1f} TB"

"""Space on the disk."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def needing_space(folder: Path, needed: int) -> Iterator[None]:
    """Raise OSError, with the numbers, where `needed` bytes do not fit, or in the end did not."""
    free = shutil.disk_usage(folder).free
    full = OSError(
        errno.ENOSPC,
        f"The cached features need {readable_size(needed)}, and {folder} has {readable_size(free)} free: "
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

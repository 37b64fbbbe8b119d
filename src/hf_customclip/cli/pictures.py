"""What commands that read pictures share: finding the files, reading in batches."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


def find_pictures(paths: Sequence[str]) -> list[str]:
    """Every picture file named, and every one in the folders named, each once and in a stable order.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a folder without pictures.
    """
    from ..data.pictures import PICTURE_SUFFIXES, list_folder

    found: list[str] = []
    for path in paths:
        if os.path.isfile(path):
            found.append(path)  # asked for by name: whatever it is called, it is opened
        elif not os.path.isdir(path):
            raise FileNotFoundError(f"There is no picture or folder {path!r}.")
        else:
            pictures = list_folder(path).pictures
            if not pictures:
                raise ValueError(
                    f"The folder {path!r} holds no pictures ({', '.join(sorted(PICTURE_SUFFIXES))})."
                )
            found += [
                os.path.relpath(picture) if not os.path.isabs(path) else picture for picture in pictures
            ]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Opened:
    """A picture that was tried: the picture in RGB, or why it cannot be read."""

    path: str
    image: Any
    problem: str | None = None


def open_pictures(paths: Iterable[str], batch_size: int) -> Iterator[list[Opened]]:
    """Batches of pictures as they are read; an unreadable one comes too, with its reason."""
    from ..evaluation.embedding import batched

    for batch in batched(paths, batch_size):
        yield [open_picture(path) for path in batch]


def open_picture(path: str) -> Opened:
    """Decode one picture, whole and upright."""
    from ..data.images import UnreadableImageError, decode_image, to_rgb

    try:
        return Opened(path, to_rgb(decode_image(path)))
    except UnreadableImageError as error:
        return Opened(path, None, error.reason)

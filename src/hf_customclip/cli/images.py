"""The image files that a command was given."""

from __future__ import annotations

import os
from collections.abc import Sequence


def find_images(paths: Sequence[str]) -> list[str]:
    """Every image file named, and every one in the folders named, each once and in a stable order.

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: a folder without images.
    """
    from ..data.folders import IMAGE_SUFFIXES, list_folder

    found: list[str] = []
    for path in paths:
        if os.path.isfile(path):
            found.append(path)  # asked for by name: whatever it is called, it is opened
        elif not os.path.isdir(path):
            raise FileNotFoundError(f"There is no image or folder {path!r}.")
        else:
            images = list_folder(path).images
            if not images:
                raise ValueError(
                    f"The folder {path!r} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})."
                )
            found += [os.path.relpath(image) if not os.path.isabs(path) else image for image in images]
    return list(dict.fromkeys(found))

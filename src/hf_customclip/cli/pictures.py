"""The picture files that a command was given."""

from __future__ import annotations

import os
from collections.abc import Sequence


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

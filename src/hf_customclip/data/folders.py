"""Finding images on disk: one listing of the folder, then look-ups by name; no file is ever opened."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path

IMAGE_SUFFIXES = frozenset((
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".jp2", ".avif",
))  # fmt: skip
DATA_SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet", ".arrow", ".tar")
ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".rar", ".7z")


def is_image_name(name: str) -> bool:
    """Whether a file name ends as images' names do."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


@dataclass
class FolderListing:
    """Every file under `root`: `images` by their suffix, `others` the rest; hidden ones are passed over."""

    root: Path
    images: list[str]
    others: list[Path]


def list_folder(root: str | Path) -> FolderListing:
    """Walk a folder once, following links to other folders, in a stable order."""
    root = Path(os.path.abspath(Path(root).expanduser()))
    images: list[str] = []
    others: list[Path] = []
    seen: set[str] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in seen:  # a link back to where we came from
            subfolders.clear()
            continue
        seen.add(os.path.realpath(folder))
        # "._x.jpg" and "__MACOSX" are what macOS puts into zip files.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith((".", "__MACOSX")))
        for name in sorted(name for name in files if not name.startswith(".")):
            if is_image_name(name):
                images.append(os.path.join(folder, name))
            else:
                others.append(Path(folder, name))
    return FolderListing(root, images, others)


class ImageFiles:
    """Look-up of the images in a folder by the names that captions files use for them."""

    def __init__(self, listing: FolderListing) -> None:
        self.root = listing.root
        self.paths = {_comparable(path): path for path in listing.images}
        self.by_name: dict[str, str] = {}
        for path in sorted(listing.images, key=lambda path: (path.count(os.sep), path)):
            name = _comparable(os.path.basename(path))
            self.by_name.setdefault(name, path)  # of two copies, the one nearer to the top
            self.by_name.setdefault(os.path.splitext(name)[0], path)  # some files leave the suffix out

    def find(self, name: str, folder: Path) -> str | None:
        """The path of an image: relative to `folder`, else to the root, else by its bare name anywhere."""
        name = _comparable(name.strip())
        for candidate in (name, name.replace("\\", "/")):
            for base in (folder, self.root):
                path = self.paths.get(os.path.normpath(os.path.join(base, candidate)))
                if path:
                    return path
        if os.path.isabs(name):
            return name if os.path.isfile(name) else None
        return self.by_name.get(os.path.basename(name.replace("\\", "/")))

    def unused(self, used: set[str]) -> tuple[list[str], list[str]]:
        """Images not in `used`: those whose name is used nowhere, and second copies of used ones."""
        used_names = {os.path.basename(path) for path in used}
        spare = [path for path in self.paths.values() if path not in used]
        return (
            [path for path in spare if os.path.basename(path) not in used_names],
            [path for path in spare if os.path.basename(path) in used_names],
        )


def _comparable(name: str) -> str:
    return name if name.isascii() else unicodedata.normalize("NFC", name)  # macOS decomposes accents

"""Captions in JSON: Karpathy's split files (Flickr8k, Flickr30k, COCO) and COCO's own annotations."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..languages import Caption
from ..part import Entry
from ..report import Case, DataError
from ..splits import SplitList, split_name
from .tables import broken_line


def read_json(path: Path) -> Any:
    """A JSON file's content; a sentence naming the file if it is broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from None


def is_karpathy(content: Any) -> bool:
    """Karpathy's: a list of images, each with its sentences."""
    images = content.get("images") if isinstance(content, dict) else None
    return (
        isinstance(images, list) and bool(images) and isinstance(images[0], dict) and "sentences" in images[0]
    )


def karpathy_entries(content: Any, path: Path) -> Iterator[Entry | Case]:
    """Images with captions and split. COCO's are known by `cocoid` and lie in `filepath`."""
    for number, image in enumerate(content["images"]):
        if not image.get("filename"):
            yield broken_line(f"{path.name} image {number}", captions=len(image.get("sentences", [])))
            continue
        name = f"{image['filepath']}/{image['filename']}" if image.get("filepath") else image["filename"]
        yield Entry(
            name,
            [Caption(sentence.get("raw")) for sentence in image.get("sentences", [])],
            path.parent,
            image_id=str(image["cocoid"]) if "cocoid" in image else image["filename"],
            split=split_name(image["split"]) if image.get("split") else None,
        )


def karpathy_split_list(path: str | os.PathLike[str]) -> SplitList:
    """Only the splits of a Karpathy file, for captions and images that come from elsewhere."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise DataError(f"There is no Karpathy file {path}.")
    content = read_json(path)
    if not is_karpathy(content):
        raise DataError(
            f'{path} is not a Karpathy file: {{"images": [{{"filename", "split", "sentences"}}]}}.'
        )
    split_of: dict[str, str] = {}
    for image in content["images"]:
        split_of[image["filename"]] = split_name(image["split"])
        if "cocoid" in image:
            split_of[str(image["cocoid"])] = split_name(image["split"])
    return SplitList(f"as in {path.name}", split_of)


def is_coco(content: Any) -> bool:
    """COCO's annotation file for captions."""
    annotations = content.get("annotations") if isinstance(content, dict) else None
    return (
        isinstance(annotations, list) and "images" in content and all("caption" in a for a in annotations[:1])
    )


def coco_entries(content: Any, path: Path, split: str | None) -> Iterator[Entry | Case]:
    """First every image, so that one without captions is seen, then every caption."""
    file_of = {image["id"]: image["file_name"] for image in content["images"]}
    for image_id, name in file_of.items():
        yield Entry(name, [], path.parent, str(image_id), split)
    for annotation in content["annotations"]:
        image_id = annotation["image_id"]
        if image_id in file_of:
            yield Entry(
                file_of[image_id], [Caption(annotation.get("caption"))], path.parent, str(image_id), split
            )
        else:
            yield broken_line(f"{path.name} caption of unknown image {image_id}")

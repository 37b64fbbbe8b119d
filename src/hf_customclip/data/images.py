"""Opening images of every kind: one decoder that names what it cannot read, one conversion to RGB."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps

ImageValue = str | Path | bytes | dict[str, Any] | PIL.Image.Image

ORIENTATION_TAG = 0x0112  # EXIF
LFS_POINTER = b"version https://git-lfs"
PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
# Modes of more than 8 bits a channel: Pillow's own convert("RGB") clips them at 255, which turns them white.
DEEP_MODES = {"I;16", "I;16B", "I;16L", "I;16N", "I", "F"}


class UnreadableImageError(ValueError):
    """An image that cannot be opened or decoded; `name` says which one and `reason` why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(
            f"Image {name!r} cannot be read: {reason}. "
            'Load the data with verify=True and on_error="skip" to leave such images out.'
        )

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        return type(self), (self.name, self.reason)  # so that a data-loading worker can hand it over


def image_name(value: ImageValue) -> str:
    """What a person would call this image: its path or file name where it has one."""
    if isinstance(value, dict):
        return str(value.get("path") or "(bytes without a name)")
    if isinstance(value, (str, Path)):
        return str(value)
    return str(getattr(value, "filename", "") or "(image without a name)")


def decode_image(value: ImageValue, name: str | None = None) -> PIL.Image.Image:
    """Open and fully decode an image, in whatever mode its file has (see `to_rgb` for RGB).

    `value` is a path, the file's bytes, the `{"bytes", "path"}` of an undecoded `datasets.Image` column, or a
    image already open. Raises `UnreadableImageError`, naming the image, for a missing, empty, damaged,
    truncated or zero-sized file and for one above Pillow's decompression-bomb limit (178,956,970 pixels).
    """
    label = name or image_name(value)
    try:
        image = value if isinstance(value, PIL.Image.Image) else PIL.Image.open(_file_of(value))
        image.load()
    except FileNotFoundError:
        raise UnreadableImageError(label, "there is no such file") from None
    except PIL.UnidentifiedImageError:
        raise UnreadableImageError(label, _why_unidentified(value)) from None
    except Exception as error:  # damaged files make Pillow's plugins raise almost anything
        raise UnreadableImageError(label, str(error).rstrip(".") or type(error).__name__) from error
    if 0 in image.size:
        raise UnreadableImageError(label, f"it has no pixels ({image.width} x {image.height})")
    return image


def open_images(
    values: Iterable[ImageValue],
) -> tuple[dict[int, PIL.Image.Image], dict[int, UnreadableImageError]]:
    """Every image in RGB, and why others cannot be read, both by their place in `values`."""
    images: dict[int, PIL.Image.Image] = {}
    unreadable: dict[int, UnreadableImageError] = {}
    for place, value in enumerate(values):
        try:
            images[place] = to_rgb(decode_image(value))
        except UnreadableImageError as error:
            unreadable[place] = error
    return images, unreadable


def _file_of(value: ImageValue) -> str | Path | BytesIO:
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return BytesIO(value["bytes"])
        if not value.get("path"):
            raise ValueError("it has neither bytes nor a path")
        return str(value["path"])
    return BytesIO(value) if isinstance(value, bytes) else value  # type: ignore[return-value]


def _why_unidentified(value: ImageValue) -> str:
    file = _file_of(value)
    start = (file.getvalue() if isinstance(file, BytesIO) else Path(file).read_bytes())[: len(LFS_POINTER)]
    if not start:
        return "the file is empty (0 bytes)"
    if start == LFS_POINTER:
        return "it is a Git LFS pointer; fetch the image itself with `git lfs pull`"
    return "it is not in an image format that Pillow knows"


def to_rgb(image: PIL.Image.Image) -> PIL.Image.Image:
    """The image as a person sees it, in 8-bit RGB; a plain upright RGB image comes back as it is.

    - EXIF orientation is applied; of an animation, the first frame is taken.
    - Transparency (alpha channel, palette entry or PNG colour key) is laid over white.
    - 16-bit grey is scaled from 0..65535; 32-bit integers beyond that by their own maximum; floats from 0..1,
      or from 0..255, or else by their own maximum.
    - CMYK, YCbCr, HSV, LAB, palette and 1-bit are converted by Pillow. Colour profiles are not applied.
    """
    if image.tell() != 0:
        image.seek(0)
    if image.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = PIL.ImageOps.exif_transpose(image)
    if image.mode in DEEP_MODES:
        image = _to_eight_bits(image)
    if image.has_transparency_data:
        return _over_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _over_white(image: PIL.Image.Image) -> PIL.Image.Image:
    rgba = image.convert(PREMULTIPLIED.get(image.mode, image.mode)).convert("RGBA")
    white = PIL.Image.new("RGBA", rgba.size, "white")
    return PIL.Image.alpha_composite(white, rgba).convert("RGB")


def _to_eight_bits(image: PIL.Image.Image) -> PIL.Image.Image:
    pixels = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    largest = float(pixels.max(initial=0.0))
    if image.mode == "F":
        full_scale = next((scale for scale in (1.0, 255.0) if largest <= scale), largest)
    else:
        full_scale = max(65535.0, largest)
    return PIL.Image.fromarray(np.round(pixels.clip(0) * (255.0 / full_scale)).astype(np.uint8))

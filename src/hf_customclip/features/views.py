"""Further views of training images, each of which is one more cached pass of the frozen vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import ImageOps

from ..data.preparation import open_rgb
from .items import Images

# View 0 is the image as it is, view 1 its mirror image, later ones are random crops, each mirrored or not.
MIRRORED = 1
# Of the image's area, and of its sides' ratio to the image's own: those of torchvision's RandomResizedCrop, gentler.
CROP_AREA, CROP_RATIO = (0.5, 1.0), (3 / 4, 4 / 3)


@dataclass(frozen=True)
class ImagesInView(Images):
    """The same images, each seen in the view of this number; a view of an image is always the same."""

    view: int

    @classmethod
    def of(cls, images: Images, view: int) -> ImagesInView:
        """The view of all of them."""
        return cls(images.column, images.first, images.index, images.digest, view)

    def __getitem__(self, number: int) -> Any:
        image = open_rgb(super().__getitem__(number))
        if self.view == MIRRORED:
            return ImageOps.mirror(image)
        generator = np.random.default_rng([self.view, number])
        cropped = image.crop(_box(image.width, image.height, generator))
        return ImageOps.mirror(cropped) if generator.random() < 0.5 else cropped

    def name(self, number: int) -> str:
        """What a person would call the image."""
        return Images(self.column, self.first, self.index, self.digest).name(number)


def _box(width: int, height: int, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, upper, right, lower."""
    area = generator.uniform(*CROP_AREA)
    ratio = np.exp(generator.uniform(*np.log(CROP_RATIO)))
    across, down = (min(1.0, float(np.sqrt(area * side))) for side in (ratio, 1 / ratio))
    size = max(1, round(across * width)), max(1, round(down * height))
    left = int(generator.integers(width - size[0] + 1))
    upper = int(generator.integers(height - size[1] + 1))
    return left, upper, left + size[0], upper + size[1]

"""Optional augmentation of training images, named in the config by torchvision.transforms.v2 names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import PIL.Image
import torch
from torchvision.transforms import InterpolationMode, v2

from ..modeling.names_custom_clip import did_you_mean

Step = str | Mapping[str, Any]
Augmentation = Callable[[PIL.Image.Image], PIL.Image.Image]

# Big enough that a crop of any usual size fits into it.
TRIAL_SIZE = (1024, 1024)


def build_augmentation(spec: Sequence[Step] | Mapping[str, Any] | None) -> Augmentation | None:
    """Turn a config's list of transforms into one callable from image to image; None or empty gives None.

    Each step is the name of a class in `torchvision.transforms.v2`, alone or with its arguments:

        augmentation:
          - RandomResizedCrop: {size: 224, scale: [0.8, 1.0], interpolation: bicubic}
          - RandomHorizontalFlip
          - RandomApply: {transforms: [{ColorJitter: {brightness: 0.2}}], p: 0.5}

    It gets RGB images as they come from the file and must give images; resizing to the tower's input and
    normalising stay the processor's work. Randomness is torch's. Mind that a flip makes "left" and "right" in
    captions wrong. Raises ValueError for an unknown name, unfit arguments, or a step that gives no image;
    it is tried once on a blank image, so that a mistake shows now and not in a data-loading worker.
    """
    if not spec:
        return None
    steps = [_transform(name, arguments) for name, arguments in _steps(spec)]
    _try_out(steps)
    return v2.Compose([*steps, v2.RGB()])  # Grayscale leaves one channel, which towers do not take


def _steps(spec: Sequence[Step] | Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(spec, str) or not isinstance(spec, (Sequence, Mapping)):
        raise ValueError(f"An augmentation is a list of transforms, not {spec!r}.")
    for step in spec.items() if isinstance(spec, Mapping) else spec:
        if isinstance(step, str):
            yield step, {}
        elif isinstance(step, Mapping):
            yield from _steps(step)
        elif isinstance(step, tuple) and isinstance(step[1] or {}, Mapping):
            yield str(step[0]), step[1] or {}
        else:
            raise ValueError(f"An augmentation step is a name or a name with its arguments, not {step!r}.")


def _transform(name: str, arguments: Mapping[str, Any]) -> v2.Transform:
    transform = getattr(v2, name, None)
    if transform is None or not _is_transform(transform):
        raise ValueError(
            f"There is no transform {name!r} in torchvision.transforms.v2.{did_you_mean(name, _transform_names())}"
        )
    try:
        return transform(**{key: _argument(key, value) for key, value in arguments.items()})
    except (TypeError, ValueError) as error:
        allowed = ", ".join(inspect.signature(transform).parameters)
        raise ValueError(f"Augmentation {name} cannot be built: {error} (it takes {allowed})") from error


def _argument(key: str, value: Any) -> Any:
    if key == "transforms":  # RandomApply, RandomChoice, RandomOrder hold further steps
        return [_transform(name, arguments) for name, arguments in _steps(value)]
    return InterpolationMode(value) if key == "interpolation" and isinstance(value, str) else value


def _transform_names() -> list[str]:
    return [name for name, value in vars(v2).items() if _is_transform(value)]


def _is_transform(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, v2.Transform) and value is not v2.Transform


def _try_out(steps: list[v2.Transform]) -> None:
    image: Any = PIL.Image.new("RGB", TRIAL_SIZE)
    with torch.random.fork_rng(devices=[]):  # the trial must not shift anybody's random numbers
        for step in steps:
            name = type(step).__name__
            try:
                image = step(image)
            except Exception as error:  # whatever a transform raises on an image, it is not for images
                raise ValueError(f"Augmentation {name} fails on an image: {error}") from error
            if not isinstance(image, PIL.Image.Image):
                raise ValueError(f"Augmentation {name} gives a {type(image).__name__}, not an image.")

"""A training run as a YAML file: model, processor, data, training."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import yaml

from ..modeling.names_custom_clip import did_you_mean

SECTIONS = ("model", "processor", "data", "training")
PATHS = (
    ("model", "vision"),
    ("model", "text"),
    ("data", "source"),
    ("data", "images"),
    ("data", "captions_file"),
    ("data", "karpathy_file"),
    ("training", "teacher"),
    ("training", "unpaired_images"),
)


@dataclasses.dataclass
class TrainConfig:
    """What a run is made of.

    Args:
        model: `vision` and `text`, and further arguments of `CustomClipModel.from_vision_text_pretrained`.
        processor: overrides of the image tower's preprocessing.
        data: `source`, further arguments of `load_image_text_dataset`, and `augmentation`.
        training: fields of `CustomClipTrainingArguments`.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    training: dict[str, Any]
    processor: dict[str, Any] = dataclasses.field(default_factory=dict)


def load_config(path: str | Path, overrides: list[str] | None = None) -> TrainConfig:
    """Read a configuration file; `overrides` such as "training.seed=1" win over it.

    Paths of towers, data and a teacher are taken relative to the file where they exist, else to the working folder.

    Raises:
        ValueError: the file is no such configuration, with what is wrong and what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"There is no configuration file {str(path)!r}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    content = content or {}
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold the sections {', '.join(SECTIONS)}.")
    for override in overrides or []:
        _override(content, override)
    _check(content, path)
    for section, key in PATHS:
        values = content.get(section) or {}
        value = values.get(key)
        if isinstance(value, str) and (path.parent / value).exists():
            values[key] = str((path.parent / value).resolve())
    return TrainConfig(**{section: content.get(section) or {} for section in SECTIONS})


def check_paths(config: TrainConfig) -> None:
    """Raise ValueError for a path that is not there, before the libraries look for it on the Hub."""
    for section, key in PATHS:
        value = getattr(config, section).get(key)
        if isinstance(value, str) and _is_a_path(key, value) and not Path(value).expanduser().exists():
            raise ValueError(_no_such_path(f"{section}.{key}", Path(value).expanduser()))


def _is_a_path(key: str, value: str) -> bool:
    """Whether it can only be a path from here: no Hub id, torchvision name, address, or pattern of files."""
    if key in ("images", "karpathy_file"):
        return True
    if key == "captions_file" or any(
        mark in value for mark in ("*", "{", "://")
    ):  # the former: in data.source
        return False
    return value.startswith(("/", ".", "~")) or value.count("/") > 1 or "\\" in value


def _no_such_path(name: str, path: Path) -> str:
    beside = [str(path.parent / each.name) for each in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path, beside, listed=0) if beside else f" {path.parent} is no folder either."
    return f"{name}: there is no file or folder {str(path)!r}.{near}"


def _override(content: dict[str, Any], override: str) -> None:
    match = re.fullmatch(r"([\w-]+)\.([\w-]+)=(.*)", override, re.DOTALL)
    if match is None:
        raise ValueError(f"{override!r} is no override: write section.key=value, such as training.seed=1.")
    section, key, value = match.groups()
    content.setdefault(section, {})
    content[section][key] = yaml.load(value, Loader=_Loader)


def _check(content: dict[str, Any], path: Path) -> None:
    for section in content:
        if section not in SECTIONS:
            raise ValueError(f"{path} has the section {section!r}; allowed are {', '.join(SECTIONS)}.")
        if content[section] is not None and not isinstance(content[section], dict):
            raise ValueError(f"{path}: the section {section!r} must hold `key: value` lines.")
    for section, keys in (("model", ("vision", "text")), ("data", ("source",))):
        for key in keys:
            if not (content.get(section) or {}).get(key):
                raise ValueError(f"{path} does not say {section}.{key}.")


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: to PyYAML, which reads 1.1, the learning rate 1e-3 is a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"),
    list("-+0123456789."),
)

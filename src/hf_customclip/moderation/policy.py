"""The policy file: categories of what is unwanted, read from YAML, checked, and written back with thresholds."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .._files import write_text
from ..modeling.names_custom_clip import did_you_mean

ACTIONS = ("flag", "review", "block")  # in rising severity; what triggers nothing is allowed
PARTS = ("image", "text", "pair", "example")
WORDED_PARTS = PARTS[:3]  # compared with the prompts, so that one number can be meant for all of them


class PolicyError(ValueError):
    """A policy that cannot be used; the message says where and what is allowed."""


@dataclass(frozen=True)
class Category:
    """One kind of unwanted content.

    Args:
        name: what findings call it.
        prompts: texts that describe it, each a caption as the model was trained on.
        thresholds: for each judged part of PARTS the score from which on it triggers, infinity for one that is
            still to be found (`calibrate`); other parts are not judged.
        action: one of ACTIONS.
        counter_prompts: texts that describe what looks alike and is harmless.
        examples: images of it.
    """

    name: str
    prompts: tuple[str, ...]
    thresholds: Mapping[str, float]
    action: str
    counter_prompts: tuple[str, ...] = ()
    examples: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        where = f"category {self.name!r}"
        if self.action not in ACTIONS:
            raise PolicyError(f"{where}: the action is {self.action!r}; allowed are {', '.join(ACTIONS)}.")
        if not self.prompts:
            raise PolicyError(f"{where}: 'prompts' needs at least one text.")
        _check_thresholds(self.thresholds, where, unset=True)
        for example in self.examples:
            if not example.is_file():
                raise PolicyError(f"{where}: there is no example image '{example}'.")
        if bool(self.examples) != ("example" in self.thresholds):
            raise PolicyError(
                f"{where}: example images and their threshold belong together. Say from which cosine on a "
                "image is like an example, such as threshold: {image: 0.3, example: 0.8}."
            )


@dataclass(frozen=True)
class Policy:
    """What is unwanted, and what to do about it.

    Args:
        categories: at least one, under different names.
        name: what people call the policy.
    """

    categories: tuple[Category, ...]
    name: str = field(default="policy")

    @classmethod
    def from_file(cls, file: str | Path, calibrated: bool = True) -> Policy:
        """Read a YAML file; example images are relative to its folder.

        Args:
            calibrated: False lets thresholds be missing: they are infinity.

        Raises:
            PolicyError: the file is missing, is no YAML, or says something that is not allowed.
        """
        file = Path(file)
        if not file.is_file():
            raise PolicyError(f"There is no policy file '{file}'.")
        return cls.from_yaml(file.read_text(encoding="utf-8"), file, calibrated)

    @classmethod
    def from_yaml(cls, text: str, file: str | Path = "policy.yaml", calibrated: bool = True) -> Policy:
        """As `from_file`, from the file's text."""
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise PolicyError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
        try:
            return _policy(content, Path(file), calibrated)
        except PolicyError as error:
            raise PolicyError(f"{file}: {error}") from None

    def fingerprint(self) -> str:
        """16 hexadecimal digits: other ones for every change of words, images, thresholds or actions."""
        content: list[Any] = [
            [c.name, c.prompts, c.counter_prompts, dict(sorted(c.thresholds.items())), c.action]
            + [hashlib.sha256(example.read_bytes()).hexdigest() for example in c.examples]
            for c in self.categories
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def write_thresholds(file: str | Path, thresholds: Mapping[str, Mapping[str, float]]) -> None:
    """Put thresholds (`{category: {part: number}}`) into a policy file, whole or not at all.

    Nothing else in the file changes, comments included. Parts not named keep their thresholds; a category without
    any gets its line.

    Raises:
        PolicyError: the file is no policy, or has no such category.
    """
    file = Path(file)
    before = Policy.from_file(file, calibrated=False)
    text = file.read_text(encoding="utf-8")
    places = _threshold_places(text)
    wanted = _known_thresholds(before)
    for name, parts in thresholds.items():
        if name not in wanted:
            raise PolicyError(f"{file} has no category {name!r}; it has {', '.join(wanted)}.")
        wanted[name].update(parts)
    for name in sorted(thresholds, key=lambda name: -places[name][0]):  # from the end, so that places hold
        start, end, key, after = places[name]
        inline = ", ".join(f"{part}: {_number(wanted[name][part])}" for part in PARTS if part in wanted[name])
        text = f"{text[:start]}{key}{{{inline}}}{after}{text[end:]}"
    if _known_thresholds(Policy.from_yaml(text, file, calibrated=False)) != wanted:
        raise PolicyError(f"The thresholds in {file} are written in a way that cannot be replaced safely.")
    write_text(file, text)


def _known_thresholds(policy: Policy) -> dict[str, dict[str, float]]:
    return {
        c.name: {part: value for part, value in c.thresholds.items() if value < math.inf}
        for c in policy.categories
    }


def _number(value: float) -> str:
    return yaml.safe_dump(value).splitlines()[0]  # Python's 1e-05 is a text to YAML


def _threshold_places(text: str) -> dict[str, tuple[int, int, str, str]]:
    """Where each category's threshold stands, (start, end) in characters; and what is to stand before and after it,
    where it has none yet."""
    root = dict(_pairs(yaml.compose(text)))
    places = {}
    for name, entry in _pairs(root["categories"]):
        if "threshold" not in dict(_pairs(entry)):
            mark = entry.value[0][0].start_mark
            after = ", " if entry.flow_style else "\n" + " " * mark.column
            places[name] = (mark.index, mark.index, "threshold: ", after)
            continue
        node = dict(_pairs(entry))["threshold"]
        end = node
        if isinstance(node, yaml.MappingNode) and not node.flow_style:
            end = node.value[-1][1]  # a block's own end is after the comments that follow it
        places[name] = (node.start_mark.index, end.end_mark.index, "", "")
    return places


def _pairs(node: Any) -> list[tuple[str, Any]]:
    return [(key.value, value) for key, value in node.value]


def _policy(content: Any, file: Path, calibrated: bool) -> Policy:
    _check_keys(content, ("name", "categories"), ("categories",), "a policy")
    entries = content["categories"]
    if not isinstance(entries, dict) or not entries:
        raise PolicyError("'categories' must hold at least one category under its name.")
    categories = tuple(
        _category(str(name), entry, file.parent, calibrated) for name, entry in entries.items()
    )
    return Policy(categories, str(content.get("name", file.stem)))


def _category(name: str, entry: Any, folder: Path, calibrated: bool) -> Category:
    where = f"category {name!r}"
    known = ("prompts", "counter_prompts", "examples", "threshold", "action")
    _check_keys(entry, known, ("prompts", "action"), where)
    examples = tuple(folder / example for example in _texts(entry, "examples", where))
    if calibrated and "threshold" not in entry:
        raise PolicyError(f"{where}: 'threshold' is missing; `hf-customclip calibrate` finds it.")
    value = entry.get("threshold", {})
    thresholds = dict(value) if isinstance(value, Mapping) else dict.fromkeys(WORDED_PARTS, value)
    if "threshold" in entry:
        _check_thresholds(thresholds, where)
    if not calibrated:
        missing = (*(() if thresholds else WORDED_PARTS), *(("example",) if examples else ()))
        thresholds = {**dict.fromkeys(missing, math.inf), **thresholds}
    prompts, counter_prompts = _texts(entry, "prompts", where), _texts(entry, "counter_prompts", where)
    return Category(name, prompts, thresholds, entry["action"], counter_prompts, examples)


def _texts(entry: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    texts = entry.get(key) or []
    if not isinstance(texts, list) or not all(isinstance(text, str) and text.strip() for text in texts):
        raise PolicyError(f"{where}: {key!r} must be a list of texts, one a line after a dash.")
    if len(set(texts)) < len(texts):
        twice = next(text for text in texts if texts.count(text) > 1)
        raise PolicyError(f"{where}: {key!r} has {twice!r} more than once.")
    return tuple(texts)


def _check_thresholds(thresholds: Mapping[str, Any], where: str, unset: bool = False) -> None:
    _check_keys(thresholds, PARTS, (), f"{where}, threshold")
    if not thresholds:
        raise PolicyError(f"{where}: 'threshold' names no part; allowed are {', '.join(PARTS)}.")
    for part, number in thresholds.items():
        if unset and number == math.inf:
            continue
        usable = isinstance(number, (int, float)) and not isinstance(number, bool) and math.isfinite(number)
        if not usable or not -1 <= number <= 1:
            raise PolicyError(
                f"{where}: the threshold of {part!r} is {number!r}; it must be a number from -1 to 1, "
                "a cosine."
            )


def _check_keys(content: Any, known: tuple[str, ...], needed: tuple[str, ...], where: str) -> None:
    if not isinstance(content, Mapping):
        raise PolicyError(f"{where} must hold {', '.join(known)}, each with a colon and its value.")
    for key in content:
        if key not in known:
            raise PolicyError(f"{where}: {key!r} is not known.{did_you_mean(key, known)}")
    for key in needed:
        if key not in content:
            raise PolicyError(f"{where}: {key!r} is missing.")

"""Values of a configuration file against the types of what they are for: a wrong one is said before anything runs."""

from __future__ import annotations

import collections.abc
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from ..modeling.names_custom_clip import did_you_mean

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    dict: "a list of `key: value` lines",
    list: "a list",
    type(None): "null",
}


def checked_values(
    section: str, values: Mapping[str, Any], types_of: Mapping[str, Any], more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """`values` if each is named in `types_of` and of the type that is named there.

    Args:
        section: of the configuration file, for messages.
        types_of: the type hint of each known name.
        more: names that are known too, with any value.

    Raises:
        ValueError: an unknown name or a value that is not allowed, with near matches.
    """
    known = [*types_of, *more]
    for name in values:
        if name not in known:
            raise ValueError(f"{section}.{name} is not known.{did_you_mean(name, known)}")
    return {
        name: value if name in more else checked_value(f"{section}.{name}", value, types_of[name])
        for name, value in values.items()
    }


def types_of_fields(cls: type) -> dict[str, Any]:
    """The type of each field that a dataclass is made with."""
    return _types_of(cls, typing.get_type_hints(cls))


def types_of_parameters(function: Callable[..., Any]) -> dict[str, Any]:
    """The type of each named parameter of a function or class method."""
    return _types_of(function, typing.get_type_hints(inspect.unwrap(function)))


def _types_of(called: Callable[..., Any], hints: Mapping[str, Any]) -> dict[str, Any]:
    kept = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(called).parameters
    return {name: hints.get(name, Any) for name, parameter in parameters.items() if parameter.kind in kept}


def checked_value(name: str, value: Any, hint: Any) -> Any:
    """`value` as the type asks for it (a whole number for 1e3), or a ValueError that says what is allowed."""
    allowed = _alternatives(hint)
    choices = [choice for each in allowed for choice in _choices(each)]
    if value is False and "no" in choices:  # YAML's word for false
        return "no"
    if choices and isinstance(value, str) and value not in choices:
        raise ValueError(f"{name} cannot be {value!r}.{did_you_mean(value, choices)}")
    if isinstance(value, float) and value.is_integer() and int in allowed and float not in allowed:
        return int(value)
    if any(_fits(value, each) for each in allowed):
        return value
    # A class that no YAML value is one of has no word.
    words = [*dict.fromkeys(_WORDS[kind] for kind in map(_plain_type, allowed) if kind in _WORDS)]
    raise ValueError(f"{name} must be {' or '.join(words)}, got {value!r}.")


def _alternatives(hint: Any) -> list[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [each for part in typing.get_args(hint) for each in _alternatives(part)]
    return [hint]


def _choices(hint: Any) -> list[str]:
    """What a text may be, where only some are allowed."""
    if typing.get_origin(hint) is typing.Literal:
        return [each for each in typing.get_args(hint) if isinstance(each, str)]
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [str(member.value) for member in hint]
    return []


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if typing.get_origin(hint) is typing.Literal:
        return any(
            value is each or (type(value) is type(each) and value == each) for each in typing.get_args(hint)
        )
    kind = _plain_type(hint)
    if isinstance(value, bool):
        return kind is bool
    if kind is list and isinstance(value, list):
        parts = [part for given in typing.get_args(hint) for part in _alternatives(given)]
        return all(any(_fits(each, part) for part in parts) for each in value) or hint is list
    return isinstance(value, (int, float) if kind is float else kind)


def _plain_type(hint: Any) -> type:
    """The type that a YAML value of this hint has."""
    kind = typing.get_origin(hint) or hint
    if kind in (collections.abc.Sequence, collections.abc.Iterable):
        return list
    if not isinstance(kind, type):
        return object
    return str if issubclass(kind, (Enum, os.PathLike)) else kind

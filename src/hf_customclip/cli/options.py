"""Arguments and options that several commands have."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Model = Annotated[str, typer.Argument(help="A saved folder or a Hub id.")]
Split = Annotated[str, typer.Option(help="Which split of the data set.")]
Dim = Annotated[
    int | None, typer.Option(min=1, help="Cut embeddings to so many first numbers (best if trained for it).")
]
BatchSize = Annotated[int, typer.Option(min=1, help="Images that go through the model at a time.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that read images beside this one.")]


def can_draw(file: Path | None) -> Path | None:
    """For options that ask for an image: says before the work, not after it, that Matplotlib is missing."""
    if file is not None:
        from .. import plotting  # noqa: F401
    return file


def takes_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with the fields of its dataclass parameters as options; it gets each dataclass whole."""
    hints = typing.get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    parameters = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        kinds = typing.get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                each.name, parameter.KEYWORD_ONLY, default=each.default, annotation=kinds[each.name]
            )
            for each in dataclasses.fields(groups[name])
        ]

    def with_options(**values: Any) -> Any:
        together = {
            name: kind(**{each.name: values.pop(each.name) for each in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        return command(**values, **together)

    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    with_options.__doc__, with_options.__name__ = command.__doc__, command.__name__
    return with_options

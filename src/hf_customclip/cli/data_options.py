"""What every command that reads image-caption data can be told about them, and errors in words of its options."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ..data import DataReport


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """The options by name; each field is one option of the command line, and None is not given."""

    images: Annotated[str | None, typer.Option(help="Where the images lie, if elsewhere.")] = None
    captions_file: Annotated[str | None, typer.Option(help="Which file holds the captions.")] = None
    karpathy_file: Annotated[str | None, typer.Option(help="A Karpathy JSON that gives the splits.")] = None
    image_column: Annotated[str | None, typer.Option(help="The images' column.")] = None
    caption_column: Annotated[
        list[str] | None, typer.Option(help="The captions' column; may be given several times.")
    ] = None
    image_id_column: Annotated[str | None, typer.Option(help="The column that tells images apart.")] = None
    split_column: Annotated[str | None, typer.Option(help="The column that tells the split.")] = None
    group_column: Annotated[
        str | None,
        typer.Option(help="Images with equal values show one thing, such as a product: one split for all."),
    ] = None
    languages: Annotated[
        list[str] | None,
        typer.Option(help="Only captions in this language (de); may be given several times."),
    ] = None
    name: Annotated[str | None, typer.Option(help="Configuration of a Hub data set.")] = None
    revision: Annotated[str | None, typer.Option(help="Revision of a Hub data set.")] = None
    seed: Annotated[
        int | None, typer.Option(help="Of the draw of splits, where the data have none (42).")
    ] = None
    validation_fraction: Annotated[
        float | None, typer.Option(help="Share of the images drawn for validation.")
    ] = None
    test_fraction: Annotated[float | None, typer.Option(help="Share of the images drawn for test.")] = None

    def given(self) -> dict[str, Any]:
        """What the user said, as arguments of `load_image_text_dataset`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if value is not None and value != []}

    def load(self, source: str, split: str | None, **more: Any) -> tuple[Any, DataReport]:
        """The data and the report; `more` are arguments that the command adds, such as those of a model.

        Raises:
            ValueError: as `load_image_text_dataset`, in words of the command line.
        """
        from ..data import load_with_report

        with in_words_of_options():
            return load_with_report(source, split, **{**more, **self.given()})


def takes_data_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with every data option; it gets them together as its argument `data_options`."""
    hints = typing.get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "data_options"
    ]
    fields = typing.get_type_hints(DataOptions, include_extras=True)
    options = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=fields[name])
        for name in (field.name for field in dataclasses.fields(DataOptions))
    ]

    def with_options(**values: Any) -> Any:
        data = DataOptions(
            **{field.name: values.pop(field.name) for field in dataclasses.fields(DataOptions)}
        )
        return command(data_options=data, **values)

    keywords = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
    with_options.__signature__ = inspect.Signature([*keywords, *options])  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in [*keywords, *options]}
    with_options.__doc__, with_options.__name__ = command.__doc__, command.__name__
    return with_options


@contextmanager
def in_words_of_options() -> Iterator[None]:
    """What is raised inside names `--caption-column`, where Python names `caption_column=...`."""
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(_in_words_of_options(str(error))) from error
    except ValueError as error:
        raise ValueError(_in_words_of_options(str(error))) from error


def _in_words_of_options(message: str) -> str:
    names = "|".join(field.name for field in dataclasses.fields(DataOptions) if "_" in field.name)
    message = re.sub(
        rf"\b({names})(=\.\.\.|=)?", lambda found: _flag(found[1]) + (" " if found[2] else ""), message
    )
    return re.sub(r"\b(images|languages|name|seed)=", lambda found: f"--{found[1]} ", message).replace(
        " .", "."
    )


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def as_flags(options: Mapping[str, Any]) -> str:
    """Options as they are typed, `--seed 7 --test-fraction 0.2`."""
    pairs = [(name, each) for name, value in options.items() for each in _several(value)]
    return " ".join(f"{_flag(name)} {each}" for name, each in pairs)


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]

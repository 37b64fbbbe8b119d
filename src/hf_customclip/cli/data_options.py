"""What every command that reads image-caption data can be told about them, and errors in words of its options."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
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
    fields = [field.name for field in dataclasses.fields(DataOptions)]
    long, short = "|".join(n for n in fields if "_" in n), "|".join(n for n in fields if "_" not in n)
    message = re.sub(rf"\b({short}|{long})=(?=[\w'\"])", lambda found: f"{_flag(found[1])} ", message)
    return re.sub(rf"\b({long})(?:=(?:\.\.\.)?)?|\b({short})=", lambda f: _flag(f[1] or f[2]), message)


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def as_flags(options: Mapping[str, Any]) -> list[str]:
    """Options as the words that are typed, `--seed`, `7`, `--test-fraction`, `0.2`."""
    pairs = [(name, each) for name, value in options.items() for each in _several(value)]
    return [word for name, each in pairs for word in (_flag(name), str(each))]


def _several(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]

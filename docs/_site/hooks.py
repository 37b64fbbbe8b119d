"""Pages that are made from the code when the site is built, so that they cannot go stale."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]


def on_files(files: Files, config: Any, **kwargs: Any) -> Files:
    """Add the changes, and put the table of training arguments into the configuration reference."""
    files.append(File.generated(config, "changes.md", content=(ROOT / "CHANGELOG.md").read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Replace the mark `<!-- training arguments -->` by the table."""
    return markdown.replace("<!-- training arguments -->", training_arguments_table())


def training_arguments_table() -> str:
    """What `CustomClipTrainingArguments` adds to transformers' arguments, and the defaults that it changes."""
    from transformers import TrainingArguments

    from hf_customclip import CustomClipTrainingArguments

    known = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    rows = ["| field | default | what it is |", "|---|---|---|"]
    for field in dataclasses.fields(CustomClipTrainingArguments):
        if field.name in known and _default(field) == _default(known[field.name]):
            continue
        text = " ".join(str(field.metadata.get("help", "")).split()).replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{_default(field)}` | {text} |")
    return "\n".join(rows)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    value = field.default
    return getattr(value, "value", value)

"""The data set a model was trained on, for its card; well-known ones are recognised by a source's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class DataDescription:
    """A data set, for the model card. What is None or empty is left out of the card.

    Args:
        name: what people call it.
        hub_id: its Hub id, where it has one.
        splits: images in each split.
        languages: ISO 639-1 codes of the captions.
        terms: under what terms it may be used, as a sentence.
        license: the model licence that those terms ask for, as the Hub spells licences.
        note: how it was chosen, split or cleaned.
        bias: what is known of its bias.
        citation: BibTeX.
    """

    name: str
    hub_id: str | None = None
    splits: Mapping[str, int] = field(default_factory=dict)
    languages: tuple[str, ...] = ()
    terms: str | None = None
    license: str | None = None
    note: str | None = None
    bias: str | None = None
    citation: str | None = None

    @property
    def link(self) -> str:
        """Its name, as a link to the Hub where it has a page there."""
        return f"[{self.name}](https://huggingface.co/datasets/{self.hub_id})" if self.hub_id else self.name


def describe_data(
    source: str, splits: Mapping[str, int] | None = None, note: str | None = None
) -> DataDescription:
    """Describe the data set that `source` (a Hub id, a file or a folder) names.

    Flickr30k, Flickr8k and COCO are recognised by name; of a folder with a dataset card, the card is believed;
    of any other, terms and languages are not known and stay out.
    """
    hub_id = hub_id_of(source)
    known = next((entry for entry in _known() if re.search(entry["pattern"], source, re.IGNORECASE)), None)
    about: dict[str, Any] = {**known, "languages": ("en",)} if known else _dataset_card(Path(source))
    name = about.get("name") or hub_id or Path(source).resolve().stem
    told = {key: about.get(key) for key in ("terms", "license", "bias", "citation")}
    return DataDescription(name, hub_id, splits or {}, about.get("languages", ()), note=note, **told)


@cache
def _known() -> list[dict[str, str]]:
    return yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


def _dataset_card(folder: Path) -> dict[str, Any]:
    file = folder / "README.md"
    if not file.is_file():
        return {}
    data = DatasetCard.load(file, ignore_metadata_errors=True).data
    languages = data.language or ()
    license = ", ".join(data.license) if isinstance(data.license, list) else data.license
    return {
        "name": data.pretty_name,
        "languages": (languages,) if isinstance(languages, str) else tuple(languages),
        "terms": f"its card states the licence {license}." if license else None,
    }


def hub_id_of(name: str | None) -> str | None:
    """`name` if it is a Hub id and no path on this machine."""
    if name is None or not HUB_ID.fullmatch(name) or Path(name).exists():
        return None
    return name

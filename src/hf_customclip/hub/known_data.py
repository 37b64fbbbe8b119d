"""What is known of public data sets: their terms and papers, recognised by a source's name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

FLICKR_TERMS = (
    "the images follow [Flickr's terms of use](https://www.flickr.com/help/terms): non-commercial research "
    "and education only. Licence tags of copies on the Hub disagree with each other and do not change this."
)
FLICKR30K_BIAS = (
    "The captions of Flickr30k are known to hold stereotypes of gender and ethnicity "
    "([van Miltenburg, 2016](https://arxiv.org/abs/1605.06083))."
)
FLICKR30K_PAPER = """@article{young2014image,
  title   = {From image descriptions to visual denotations: New similarity metrics for semantic inference over event descriptions},
  author  = {Young, Peter and Lai, Alice and Hodosh, Micah and Hockenmaier, Julia},
  journal = {Transactions of the Association for Computational Linguistics},
  volume  = {2},
  pages   = {67--78},
  year    = {2014}
}"""  # noqa: E501
FLICKR8K_PAPER = """@article{hodosh2013framing,
  title   = {Framing Image Description as a Ranking Task: Data, Models and Evaluation Metrics},
  author  = {Hodosh, Micah and Young, Peter and Hockenmaier, Julia},
  journal = {Journal of Artificial Intelligence Research},
  volume  = {47},
  pages   = {853--899},
  year    = {2013}
}"""
COCO_TERMS = (
    "the annotations are under [CC BY 4.0](https://cocodataset.org/#termsofuse); the images follow "
    "[Flickr's terms of use](https://www.flickr.com/help/terms)."
)
COCO_PAPER = """@inproceedings{lin2014microsoft,
  title     = {Microsoft {COCO}: Common Objects in Context},
  author    = {Lin, Tsung-Yi and Maire, Michael and Belongie, Serge and Hays, James and Perona, Pietro and Ramanan, Deva and Doll{\\'a}r, Piotr and Zitnick, C. Lawrence},
  booktitle = {European Conference on Computer Vision},
  year      = {2014}
}"""  # noqa: E501


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
    known = next((entry for pattern, entry in _KNOWN if re.search(pattern, source, re.IGNORECASE)), None)
    card = _dataset_card(Path(source)) if known is None else {}
    name = (known or card).get("name") or hub_id or Path(source).resolve().stem
    languages = ("en",) if known else card.get("languages", ())
    about = {key: (known or card).get(key) for key in ("terms", "license", "bias", "citation")}
    return DataDescription(name, hub_id, splits or {}, languages, note=note, **about)


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


_KNOWN: list[tuple[str, dict[str, str]]] = [
    (
        r"flickr[-_ ]?30k|results_20130124",
        {
            "name": "Flickr30k", "terms": FLICKR_TERMS, "license": "other", "bias": FLICKR30K_BIAS,
            "citation": FLICKR30K_PAPER,
        },
    ),
    (
        r"flickr[-_ ]?8k",
        {"name": "Flickr8k", "terms": FLICKR_TERMS, "license": "other", "citation": FLICKR8K_PAPER},
    ),
    (r"(?<![a-z])(ms)?coco(?![a-z])", {"name": "COCO", "terms": COCO_TERMS, "citation": COCO_PAPER}),
]  # fmt: skip

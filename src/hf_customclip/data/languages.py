"""The language of each caption: found in names of columns, in a language column, or in the keys of a record."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from .report import Case

# ISO 639-1. A column or file may add a region, a script or anything else: pt_BR, zh-hant, zh_translated.
CODES = frozenset(
    re.findall(
        r"\w+",
        """
        aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee
        el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is
        it iu ja jp jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr
        ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si
        sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh
        yi yo za zh zu
        """,
    )
)
OWN_CODES = {"jp": "ja"}  # XTD's files say jp
UNKNOWN = "und"  # ISO 639-2: undetermined
PLAIN = "en"  # the language of `captions` where it stands beside `captions_de`
# One word of a caption column's name, then a language: captions_de, caption_zh-hant, text_pt_BR, de_caption.
STEM = r"captions?|alt_texts?|texts?|sentences?|sent|raw|comments?|descriptions?|labels?"
COLUMN = re.compile(
    rf"(?P<stem>{STEM})[_-](?:(?P<number>\d+)[_-])?(?P<code>[a-z]{{2}}(?:[_-][a-z0-9]+)*?)(?:_\d+)?"
)
# As often an identity or a number as Indonesian or Norwegian: only a column of captions (plural) is believed.
AMBIGUOUS = frozenset(("id", "no"))

# Which languages to keep; None and "all" keep every caption that is read.
Wanted: TypeAlias = Sequence[str] | Literal["all"] | None


class Caption(NamedTuple):
    """A caption as it is read, blank or missing ones included, and its language where that is told."""

    text: str | None
    language: str | None = None


def language_code(name: str) -> str | None:
    """The language that a name stands for, such as "pt-br" for "pt_BR"; None if it begins with no ISO 639-1 code."""
    plain = name.strip().lower().replace("_", "-")
    code, _, rest = plain.partition("-")
    return (OWN_CODES.get(code, code) + (f"-{rest}" if rest else "")) if code in CODES else None


def spelt_language(cell: Any) -> str | None:
    """What a cell says of the language: its code, or a name such as "german" as it stands; None if it says nothing."""
    if not isinstance(cell, str) or not cell.strip():
        return None
    return language_code(cell) or cell.strip().lower()


def language_of_column(name: str) -> str | None:
    """The language in the name of a caption column, such as "de" in "captions_de"."""
    match = COLUMN.fullmatch(name.strip().lower())
    if match is None or (match["code"] in AMBIGUOUS and not match["stem"].endswith("s")):
        return None
    return language_code(match["code"])


def languages_of_keys(names: Iterable[Any]) -> dict[str, str]:
    """Which of a record's keys or a table's columns are languages themselves: {"en": "en", "pt_BR": "pt-br"}.

    One alone is none, and "id" and "no" are none without two others: these are usual names of other things.
    """
    found = {name: code for name in names if isinstance(name, str) and (code := language_code(name))}
    sure = {name: code for name, code in found.items() if code not in AMBIGUOUS}
    return found if len(sure) > 1 else {}


def sort_captions(captions: Iterable[Caption], name: str, wanted: Wanted) -> tuple[list[Caption], list[Case]]:
    """The captions that are kept, without blanks around them, and a case for each that is left out.

    Empty ones are left out, and those in other languages than the `wanted` ones; "NA" and "null" are text.
    """
    kept: list[Caption] = []
    cases: list[Case] = []
    for text, language in captions:
        text = (text or "").strip()
        if not text:
            cases.append(Case("empty_caption", name, captions=1))
        elif wanted not in (None, "all") and (language or UNKNOWN) not in wanted:
            cases.append(Case("other_language", f"{name} ({language or UNKNOWN})", captions=1))
        else:
            kept.append(Caption(text, language))
    return kept, cases


def no_caption(name: str, wanted: Wanted) -> Case:
    """The case of an image without a caption, which is to be expected where not all languages are kept."""
    kind = "uncaptioned_image" if wanted in (None, "all") else "image_of_other_language"
    return Case(kind, name, images=1)


def wanted_languages(languages: str | Sequence[str] | None) -> Wanted:
    """The languages asked for, spelt as this package spells them."""
    if languages is None:
        return None
    if isinstance(languages, str):
        languages = [languages]
    if "all" in languages:
        return "all"
    return [spelt_language(name) or UNKNOWN for name in languages]

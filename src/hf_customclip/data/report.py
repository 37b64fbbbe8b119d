"""What loading a data set found, kept and left out: counts that add up, and every loss by name."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of problem: how it reads in the report, and whether `on_error="raise"` stops for it."""

    words: str
    stops: bool = False


KINDS = {
    "broken_line": Kind("lines that make no sense, left out", stops=True),
    "empty_caption": Kind("empty captions, left out", stops=True),
    "missing_image": Kind("images that are not there, left out with their captions", stops=True),
    "uncaptioned_image": Kind("images without a caption, left out", stops=True),
    "unreadable_image": Kind("images that cannot be read, left out with their captions", stops=True),
    "other_language": Kind("captions in languages not asked for, left out"),
    "image_of_other_language": Kind("images without a caption in the languages asked for, left out"),
    "unlisted_image": Kind("images in no split of the split list, left out with their captions"),
    "second_copy": Kind("files of the same name in another folder, not used"),
    "repaired_line": Kind("damaged lines that were understood all the same"),
    "not_utf8": Kind("lines that are not UTF-8, read as Windows-1252"),
    "split_conflict": Kind("images that the data put in two splits"),
}
NAMES_SHOWN = 5


class AlikeImages(NamedTuple):
    """Two images of different splits that look nearly the same, by name."""

    first: str
    second: str
    splits: tuple[str, str]


class DataError(ValueError):
    """Data that cannot be used as they are; the message says what is wrong and what to do."""


class Case(NamedTuple):
    """One case of a problem, as a reader meets it, and how many images and captions are left out for it."""

    kind: str  # one of KINDS
    name: str
    images: int = 0
    captions: int = 0


@dataclass
class Problem:
    """One kind of problem: every case by name, and how many images and captions were left out for it."""

    kind: str
    names: list[str] = field(default_factory=list)
    images: int = 0
    captions: int = 0

    def __str__(self) -> str:
        shown = ", ".join(self.names[:NAMES_SHOWN]) + (", ..." if len(self.names) > NAMES_SHOWN else "")
        return f"{KINDS[self.kind].words} ({len(self.names):,}): {shown}"


@dataclass
class SplitCounts:
    """Images and captions of one split."""

    images: int
    captions: int


@dataclass
class DataReport:
    """How a source was understood. For each of images and captions, in = out + left out (see `balanced`).

    `load_with_report` and `inspect_source` give one. Of a streamed source only the form and the split rule are
    known.
    """

    source: str = ""
    form: str = ""
    files: list[str] = field(default_factory=list)
    images_in: int = 0
    captions_in: int = 0
    problems: dict[str, Problem] = field(default_factory=dict)
    splits: dict[str, SplitCounts] = field(default_factory=dict)
    split_rule: str = ""
    notes: list[str] = field(default_factory=list)
    languages: dict[str, int] = field(default_factory=dict)  # captions kept of each, where languages are told
    captions_per_image: dict[int, int] = field(default_factory=dict)
    caption_words: dict[int, int] = field(default_factory=dict)
    caption_tokens: dict[int, int] = field(default_factory=dict)
    max_text_length: int | None = None
    captions_cut: int | None = None
    shared: dict[str, int] = field(default_factory=dict)  # captions and groups of several images, of splits
    near_duplicates: list[AlikeImages] = field(default_factory=list)
    streamed: bool = False

    def count(self, cases: Iterable[Case]) -> None:
        """Sort what readers met by kind."""
        for case in cases:
            problem = self.problems.setdefault(case.kind, Problem(case.kind))
            problem.names.append(case.name)
            problem.images += case.images
            problem.captions += case.captions

    @property
    def images_out(self) -> int:
        """Images in all the splits together."""
        return sum(counts.images for counts in self.splits.values())

    @property
    def captions_out(self) -> int:
        """Captions in all the splits together."""
        return sum(counts.captions for counts in self.splits.values())

    @property
    def balanced(self) -> bool:
        """Whether everything that came in either went out or is named in a problem."""
        left_out = self.problems.values()
        return self.images_in == self.images_out + sum(problem.images for problem in left_out) and (
            self.captions_in == self.captions_out + sum(problem.captions for problem in left_out)
        )

    @property
    def serious(self) -> list[Problem]:
        """The problems that `on_error="raise"` stops for."""
        return [problem for kind, problem in self.problems.items() if KINDS[kind].stops]

    def raise_for_problems(self) -> None:
        """Raise `DataError`, naming every kind of serious problem found."""
        if self.serious:
            listed = "; ".join(map(str, self.serious))
            raise DataError(f'{self.source} has problems: {listed}. on_error="skip" leaves these out.')

    def to_dict(self) -> dict[str, Any]:
        """The whole report as plain values, for JSON."""
        return {**asdict(self), "images_out": self.images_out, "captions_out": self.captions_out}

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(report: DataReport) -> list[str]:
    lines = [f"source             {report.source}", f"form               {report.form}"]
    lines += [f"file               {name}" for name in report.files[:NAMES_SHOWN]]
    if report.streamed:
        lines.append("images, captions   streamed, so not counted")
    else:
        lines.append(f"images             {report.images_out:,} of {report.images_in:,}")
        lines.append(f"captions           {report.captions_out:,} of {report.captions_in:,}")
    lines.append(f"splits             {report.split_rule}")
    lines += [
        f"  {name:<16} {c.images:,} images, {c.captions:,} captions" for name, c in report.splits.items()
    ]
    if report.languages:
        counts = ", ".join(f"{language}: {count:,}" for language, count in report.languages.items())
        lines.append(f"languages          {counts}")
    lines += _length_lines(report)
    if report.shared:
        counts = ", ".join(f"{count:,} {what}" for what, count in report.shared.items())
        lines.append(f"shared             {counts}")
    if report.near_duplicates:
        pairs = report.near_duplicates
        shown = ", ".join(f"{pair.first} and {pair.second}" for pair in pairs[:NAMES_SHOWN])
        more = ", ..." if len(pairs) > NAMES_SHOWN else ""
        lines.append(
            f"nearly the same    {len(pairs):,} images of one split look like one of another: {shown}{more}"
        )
    lines += [f"problem            {problem}" for problem in report.problems.values()]
    return lines + [f"note               {note}" for note in report.notes]


def _length_lines(report: DataReport) -> list[str]:
    lines = []
    if report.captions_per_image:
        counts = ", ".join(f"{k}: {n:,}" for k, n in sorted(report.captions_per_image.items())[:10])
        lines.append(f"captions per image {counts}")
    for unit, percentiles in (("words", report.caption_words), ("tokens", report.caption_tokens)):
        if percentiles:
            shown = ", ".join(f"{p}%: {n}" for p, n in percentiles.items())
            lines.append(f"caption {unit:<10} {shown}")
    if report.captions_cut is not None:
        lines.append(f"cut at {report.max_text_length} tokens   {report.captions_cut:,} captions")
    return lines

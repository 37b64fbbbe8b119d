"""Measured retrieval as the model card shows it: beside chance, with intervals, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from huggingface_hub import EvalResult

from ..evaluation.reports import RETRIEVAL_METRICS, WAYS, languages_of, retrieval_eval_results
from .known_data import DataDescription

LANGUAGE_NAMES = {
    "ar": "Arabic", "bn": "Bengali", "da": "Danish", "de": "German", "en": "English", "es": "Spanish",
    "fi": "Finnish", "fr": "French", "hi": "Hindi", "hu": "Hungarian", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sv": "Swedish",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


@dataclass(frozen=True)
class RetrievalResult:
    """Retrieval metrics of one split, by the contract's names: `i2t_recall@1`, …, `rsum`.

    Args:
        metrics: what was measured.
        split: what was evaluated; "test" and "validation" are called held out.
        num_images, num_captions: its size, stated in the protocol where known.
        chance: what ranking by chance would give.
        intervals: where a recall, or rsum, lies at 95 %, as (low, high), by bootstrap over images.
        data: what the split is of.
    """

    metrics: Mapping[str, float]
    split: str | None = None
    num_images: int | None = None
    num_captions: int | None = None
    chance: Mapping[str, float] | None = None
    intervals: Mapping[str, Sequence[float]] | None = None
    data: DataDescription | None = None

    @property
    def protocol(self) -> str:
        """How it was measured, in words."""
        sentences = [
            "Image to text, an image counts as found at K if any of its captions is among its first K; text "
            "to image, each caption looks for its one image. Recalls are in per cent."
        ]
        if self.intervals:
            sentences.append("In brackets where each lies at 95 %, by bootstrap over the images.")
        if self.num_images is not None and self.num_captions is not None:
            held_out = ", held out" if self.split in ("test", "val", "validation") else ""
            sentences.insert(0, f"{self.num_images:,} images and {self.num_captions:,} captions{held_out}.")
            if languages_of(self.metrics):
                sentences.append("Each language is measured alone; the first table holds their mean.")
            if self.num_images != 1000:
                sentences.append("With so many candidates they do not compare with those over 1,000.")
        return " ".join(sentences)

    @property
    def rows(self) -> list[list[str]]:
        """Table rows, recalls in per cent; chance below each direction where it is known."""
        rows = []
        for way, label in WAYS.items():
            for title, values in ((label, self.metrics), ("by chance", self.chance)):
                if values is not None:
                    intervals = self.intervals if values is self.metrics else None
                    cells = [_number(values, f"{way}_recall@{k}", 100, intervals) for k in (1, 5, 10)]
                    rows.append([title, *cells, f"{values[f'{way}_median_rank']:.1f}"])
        return rows

    @property
    def language_rows(self) -> list[list[str]]:
        """Table rows of each language's recalls in per cent, text to image and image to text, and rsum.

        Where languages were measured that were not trained on, those that were are marked.
        """
        names = [f"{way}_recall@{k}" for way in ("t2i", "i2t") for k in (1, 5, 10)]
        trained = set(self.data.languages) if self.data else set()
        told = bool(trained and set(languages_of(self.metrics)) - trained)
        return [
            [
                LANGUAGE_NAMES.get(language, language)
                + (" (trained)" if told and language in trained else ""),
                *(_number(self.metrics, f"{name}_{language}", 100, None) for name in names),
                _number(self.metrics, f"rsum_{language}", 1, None),
            ]
            for language in languages_of(self.metrics)
        ]

    @property
    def rsum(self) -> str:
        """The sum of the six recalls in per cent, and chance where it is known."""
        chance = f" (by chance {self.chance['rsum']:.1f})" if self.chance else ""
        return f"{_number(self.metrics, 'rsum', 1, self.intervals)} of 600{chance}"

    def eval_results(self) -> list[EvalResult]:
        """Entries of the card's `model-index`."""
        data = self.data or DataDescription("its own data")
        hub_type = data.hub_id or data.name.lower().replace(" ", "-")
        return retrieval_eval_results(
            self.metrics, dataset_type=hub_type, dataset_name=data.name, dataset_split=self.split
        )


def _number(
    values: Mapping[str, float], name: str, scale: int, intervals: Mapping[str, Sequence[float]] | None
) -> str:
    text = f"{scale * values[name]:.1f}"
    if intervals and name in intervals:
        low, high = (f"{scale * end:.1f}" for end in intervals[name])
        text += f" [{low}, {high}]"
    return text


def newest_results(
    log_history: Sequence[Mapping[str, float]],
    data: DataDescription | None,
    best_step: int | None = None,
    about: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[RetrievalResult]:
    """The newest recalls of the test and the validation split in `trainer.state.log_history`.

    Args:
        best_step: of the model that was loaded at the end; its recalls count, not the last ones.
        about: further fields of the `RetrievalResult` of a split, where they are known.
    """
    results = []
    for prefix, split in (("test_", "test"), ("eval_", "validation")):
        needed = {prefix + name for name in RETRIEVAL_METRICS}
        measured = [entry for entry in log_history if needed <= entry.keys()]
        measured = [entry for entry in measured if entry["step"] == best_step] or measured
        if measured:
            entry = {key.removeprefix(prefix): value for key, value in measured[-1].items()}
            metrics = {key: value for key, value in entry.items() if key.startswith(RETRIEVAL_METRICS)}
            results.append(RetrievalResult(metrics, split, data=data, **(about or {}).get(split, {})))
    return results

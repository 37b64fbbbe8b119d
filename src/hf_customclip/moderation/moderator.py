"""Scores of images, texts and both together against a policy, and what follows from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..inference.encode import DualEncoder, encode_images, encode_texts, encode_tokens, max_text_length
from .policy import ACTIONS, Category, Policy

ALLOW = "allow"
PART_NAMES = {"image": "the image", "text": "the text", "pair": "image and text together"}


@dataclass(frozen=True)
class Finding:
    """What one category says about one item.

    Args:
        category: its name in the policy.
        action: what the policy asks for where it triggers.
        triggered: whether it does.
        part: the part furthest above its threshold (or the least below it): "image", "text", "pair", or
            "example" for an image compared with the example images.
        score: that part's score: the cosine with the nearest prompt; where a counter-prompt is nearer, less by
            as much as that is nearer. For "example" the cosine with the nearest example image.
        threshold: from which on it triggers.
        nearest: that prompt, or the example's path.
        scores: the scores of all parts that the policy judges and the item has.
    """

    category: str
    action: str
    triggered: bool
    part: str
    score: float
    threshold: float
    nearest: str
    scores: dict[str, float]

    def __str__(self) -> str:
        sign = ">=" if self.triggered else "<"
        if self.part == "example":
            why = f"the image is like the example {self.nearest}"
        else:
            why = f'{PART_NAMES[self.part]} near "{self.nearest}"'
        return f"{self.category}: {why} ({self.score:.3f} {sign} {self.threshold:.3f})"


@dataclass(frozen=True)
class Verdict:
    """What a policy says about one item.

    Args:
        action: the most severe action among the triggered findings, "allow" where none is.
        findings: one for each category that could judge the item, in the policy's order.
    """

    action: str
    findings: tuple[Finding, ...]

    @property
    def triggered(self) -> tuple[Finding, ...]:
        """The findings that count, the most severe first."""
        found = [finding for finding in self.findings if finding.triggered]
        return tuple(sorted(found, key=lambda finding: -ACTIONS.index(finding.action)))


class Moderator:
    """Holds images and texts against a policy.

    Args:
        model: a dual encoder with `get_image_features` and `get_text_features`.
        processor: its processor.
        policy: a `Policy`, or its YAML file.
        batch_size: prompts and examples that go through the model at a time.

    Raises:
        PolicyError: the policy file cannot be used.
        UnreadableImageError: an example image cannot be decoded.
    """

    def __init__(
        self, model: DualEncoder, processor: Any, policy: Policy | str | Path, batch_size: int = 64
    ) -> None:
        self.model, self.processor = model, processor
        self.policy = policy if isinstance(policy, Policy) else Policy.from_file(policy)
        self._references = [self._embed_references(c, batch_size) for c in self.policy.categories]

    def check(
        self, images: Sequence[Any] | None = None, texts: Sequence[str | None] | None = None
    ) -> list[Verdict]:
        """One batch of items to a verdict for each.

        Args:
            images: images, paths or bytes; None in place of one for an item that is text alone.
            texts: accompanying texts; None or blank for an item that is an image alone. A text longer than
                the model reads is checked in overlapping pieces, each of them with the image too.

        Raises:
            ValueError: neither is given, or they are not equally many.
            UnreadableImageError: an image cannot be decoded.
        """
        if images is None and texts is None:
            raise ValueError("Nothing to check: give images, texts or both.")
        images = [None] * len(texts or ()) if images is None else images
        texts = [None] * len(images) if texts is None else texts
        if len(images) != len(texts):
            raise ValueError(
                f"{len(images)} images and {len(texts)} texts: give as many of one as of the other."
            )
        image_embeds = self._embed_given(images)
        pieces = self._embed_pieces(texts)
        return [
            self._verdict(image_embed, piece) for image_embed, piece in zip(image_embeds, pieces, strict=True)
        ]

    def _embed_references(self, category: Category, batch_size: int) -> dict[str, Tensor]:
        worded = {"prompts": category.prompts, "counter_prompts": category.counter_prompts}
        found = {
            kind: encode_texts(self.model, self.processor, texts, batch_size=batch_size).cpu()
            for kind, texts in worded.items()
            if texts
        }
        if category.examples:
            embeds = encode_images(self.model, self.processor, category.examples, batch_size=batch_size)
            found["examples"] = embeds.cpu()
        return found

    def _embed_given(self, images: Sequence[Any]) -> list[Tensor | None]:
        """`[1, d]` for each image, None where there is none."""
        given = [image for image in images if image is not None]
        embeds = iter(encode_images(self.model, self.processor, given).cpu().split(1) if given else ())
        return [None if image is None else next(embeds) for image in images]

    def _embed_pieces(self, texts: Sequence[str | None]) -> list[Tensor | None]:
        """`[pieces, d]` for each text, None where there is none."""
        rows = [row for row, text in enumerate(texts) if text and text.strip()]
        found: list[Tensor | None] = [None] * len(texts)
        if rows:
            length = max_text_length(self.model, self.processor)
            tokens = split_long_texts(self.processor.tokenizer, [str(texts[row]) for row in rows], length)
            embeds = encode_tokens(self.model, tokens["input_ids"], tokens["attention_mask"]).cpu()
            owner = tokens["owner"]
            for position, row in enumerate(rows):
                found[row] = embeds[owner == position]
        return found

    def _verdict(self, image_embed: Tensor | None, pieces: Tensor | None) -> Verdict:
        embeds: dict[str, Tensor] = {}
        if image_embed is not None:
            embeds["image"] = embeds["example"] = image_embed
        if pieces is not None:
            embeds["text"] = pieces
        if image_embed is not None and pieces is not None:
            embeds["pair"] = (
                image_embed + pieces
            ) / 2  # its cosines: the means of both, for one and the same prompt
        findings = []
        for category, references in zip(self.policy.categories, self._references, strict=True):
            judged = [part for part in category.thresholds if part in embeds]
            if judged:
                scored = {part: score(embeds[part], references, part) for part in judged}
                findings.append(_finding(category, scored))
        severities = [ACTIONS.index(finding.action) for finding in findings if finding.triggered]
        return Verdict(ACTIONS[max(severities)] if severities else ALLOW, tuple(findings))


def score(embeds: Tensor, references: dict[str, Tensor], part: str) -> tuple[float, int]:
    """The highest score among `embeds` `[n, d]`, and the position of the prompt or example that gave it."""
    if part == "example":
        scores = embeds @ references["examples"].T
    else:
        scores = embeds @ references["prompts"].T
        if "counter_prompts" in references:
            # Not simply the difference: counter-prompts far from everything would blur what is near a prompt.
            counter = (embeds @ references["counter_prompts"].T).amax(1, keepdim=True)
            scores = scores - (counter - scores.amax(1, keepdim=True)).clamp(min=0)
    best = int(scores.argmax())
    return round(scores.flatten()[best].item(), 6), best % scores.shape[1]


def _finding(category: Category, scored: dict[str, tuple[float, int]]) -> Finding:
    part = max(scored, key=lambda part: scored[part][0] - category.thresholds[part])
    value, nearest = scored[part]
    threshold = category.thresholds[part]
    return Finding(
        category=category.name,
        action=category.action,
        triggered=value >= threshold,
        part=part,
        score=value,
        threshold=threshold,
        nearest=str((category.examples if part == "example" else category.prompts)[nearest]),
        scores={part: value for part, (value, _) in scored.items()},
    )


def split_long_texts(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """Tokens of texts in pieces of at most `length` tokens, a quarter of which overlap.

    Returns:
        `input_ids` and `attention_mask` `[pieces, tokens]`, and `owner` `[pieces]`, the position of each
        piece's text.

    Raises:
        ValueError: a text is too long and the tokenizer, one in Python, cannot split.
    """
    if not tokenizer.is_fast:
        tokens = tokenizer(list(texts), padding=True, return_tensors="pt")
        if tokens["input_ids"].shape[1] > length:
            raise ValueError(
                f"A text is longer than the {length} tokens that the model reads, and a {type(tokenizer).__name__} "
                "cannot split it: give it in shorter pieces."
            )
        owner = torch.arange(len(texts))
    else:
        tokens = tokenizer(
            list(texts),
            padding=True,
            truncation=True,
            max_length=length,
            stride=length // 4,
            return_overflowing_tokens=True,
            return_tensors="pt",
        )
        owner = tokens["overflow_to_sample_mapping"]
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"], "owner": owner}

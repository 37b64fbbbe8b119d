"""Retrieval measured language by language, for data whose captions tell theirs."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from .chance import retrieval_chance
from .reports import align, languages_of
from .retrieval import RECALL_AT, ArrayLike, retrieval_metrics


def metrics_by_language(
    image_embeds: ArrayLike,
    text_embeds: ArrayLike,
    image_ids: ArrayLike,
    text_image_ids: ArrayLike,
    *,
    languages: Sequence[str] | None,
    measure: Callable[[Tensor, Tensor, Tensor, Tensor], dict[str, float]] = retrieval_metrics,
) -> dict[str, float]:
    """`retrieval_metrics` of each language alone, such as `t2i_recall@1_zh`, and their mean as `t2i_recall@1`.

    In each language only its captions and the images that have one are compared, so that a language's numbers
    are those of a data set in that language.

    Args:
        languages: of each text; with None, or where all are equal, the result is `retrieval_metrics`' own.
        measure: what to measure in place of `retrieval_metrics`, such as `corrected_retrieval_metrics` with a bank.

    The other arguments and errors are those of `retrieval_metrics`.
    """
    images, texts = torch.as_tensor(image_embeds), torch.as_tensor(text_embeds)
    found = {
        name: measure(images[shown], texts[chosen], ids, text_ids)
        for name, shown, chosen, ids, text_ids in _each_language(image_ids, text_image_ids, languages)
    }
    metrics = _mean(list(found.values()))
    if len(found) == 1:
        return metrics
    return metrics | {f"{key}_{name}": value for name, one in found.items() for key, value in one.items()}


def chance_by_language(
    image_ids: ArrayLike, text_image_ids: ArrayLike, *, languages: Sequence[str] | None
) -> dict[str, float]:
    """`retrieval_chance` in each language alone, their mean."""
    parts = _each_language(image_ids, text_image_ids, languages)
    return _mean([retrieval_chance(ids, text_ids) for _, _, _, ids, text_ids in parts])


def _mean(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([one[key] for one in metrics])) for key in metrics[0]}


def _each_language(
    image_ids: ArrayLike, text_image_ids: ArrayLike, languages: Sequence[str] | None
) -> Iterator[tuple[str, Tensor, Tensor, Tensor, Tensor]]:
    """Each language with the rows of its images and texts (truth values), and their ids."""
    ids, text_ids = torch.as_tensor(image_ids), torch.as_tensor(text_image_ids)
    spoken = np.full(len(text_ids), "") if languages is None else np.asarray(languages)
    names = sorted(set(spoken.tolist()))
    for name in names:
        chosen = torch.as_tensor(spoken == name, device=text_ids.device)
        shown = (
            torch.isin(ids, text_ids[chosen]) if len(names) > 1 else torch.ones_like(ids, dtype=torch.bool)
        )
        yield name, shown, chosen, ids[shown], text_ids[chosen]


def format_language_table(
    metrics: Mapping[str, float], trained: Sequence[str] | None = None, prefix: str = ""
) -> str:
    """Text to image and image to text in each language as a table for the terminal, below it the means.

    Args:
        trained: the languages that the model was trained on, if known; the others are then meant apart.
    """
    recalls = [f"{way}_recall@{k}" for way in ("t2i", "i2t") for k in RECALL_AT]
    columns = [*recalls, "rsum"]
    names = languages_of(metrics, prefix)
    heads = [f"{'T>I' if name.startswith('t2i') else 'I>T'} R@{name.rpartition('@')[2]}" for name in recalls]
    rows = [["", *heads, "rsum"]]
    rows += [_row(name, [metrics[f"{prefix}{key}_{name}"] for key in columns]) for name in names]
    for title, group in _groups(names, trained).items():
        means = [float(np.mean([metrics[f"{prefix}{key}_{name}"] for name in group])) for key in columns]
        rows.append(_row(title, means))
    return align(rows)


def _groups(names: Sequence[str], trained: Sequence[str] | None) -> dict[str, list[str]]:
    if trained is None or not set(names) - set(trained):
        return {f"mean of {len(names)}": list(names)}
    seen = [name for name in names if name in trained]
    unseen = [name for name in names if name not in trained]
    groups = {f"mean of {len(seen)} trained": seen, f"mean of {len(unseen)} not trained": unseen}
    return {title: group for title, group in groups.items() if group}


def _row(title: str, values: Sequence[float]) -> list[str]:
    return [title, *(f"{value:.3f}" for value in values[:-1]), f"{values[-1]:.1f}"]

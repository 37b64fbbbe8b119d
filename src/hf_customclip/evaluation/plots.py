"""From embeddings and a data set to the images that `hf-customclip evaluate --plots` writes.

The drawing itself is in `hf_customclip.plotting`. Importing this module needs Matplotlib (the `plots` extra).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from ..data.images import decode_image, to_rgb
from ..plotting import (
    Hit,
    QueryHits,
    plot_image_to_text,
    plot_recall_curve,
    plot_similarity,
    plot_text_to_image,
    plot_training_curves,
    save_figure,
)
from .chance import chance_recall
from .embedded_dataset import EmbeddedDataset
from .retrieval import retrieval_ranks

CURVE_LENGTH = 100


def write_retrieval_plots(
    directory: str | os.PathLike[str],
    dataset: Dataset,
    embedded: EmbeddedDataset,
    *,
    log_history: Sequence[Mapping[str, float]] | None = None,
    num_queries: int = 5,
    top_k: int = 5,
    seed: int = 0,
) -> list[Path]:
    """Write the retrieval grids, a similarity heat map and the recall curve as PNG files; return their paths.

    Args:
        directory: gets `text_to_image.png`, `image_to_text.png`, `similarity.png`, `recall.png` and,
            with a history, `training.png`.
        dataset: what was embedded, with the columns `image` and `captions`.
        embedded: its embeddings, from `embed_dataset`.
        log_history: `trainer.state.log_history`; without a logged loss there is no `training.png`.
        num_queries: rows of each grid, drawn at random with `seed`.
        top_k: images or texts shown for each query.
        seed: the same seed draws the same queries.
    """
    results = _Results(dataset, embedded)
    chosen = results.draw(num_queries, seed)
    batch = results.draw(10, seed + 1)
    recalls, chance = recall_curves(embedded)
    figures = {
        "text_to_image": plot_text_to_image([results.text_query(row, top_k) for row in chosen]),
        "image_to_text": plot_image_to_text([results.image_query(row, top_k) for row in chosen]),
        "similarity": plot_similarity(*results.batch(batch), title="Similarity of a batch"),
        "recall": plot_recall_curve(recalls, chance),
    }
    if log_history is not None and any("loss" in entry for entry in log_history):
        figures["training"] = plot_training_curves(log_history)
    return [save_figure(figure, Path(directory) / f"{name}.png") for name, figure in figures.items()]


def plot_retrieval_grid(
    embedded: EmbeddedDataset,
    dataset: Dataset,
    path: str | os.PathLike[str],
    *,
    num_queries: int = 5,
    top_k: int = 5,
    seed: int = 0,
) -> Path:
    """Write one image: a few texts with the images found for them, right ones framed; return its path."""
    results = _Results(dataset, embedded)
    queries = [results.text_query(row, top_k) for row in results.draw(num_queries, seed)]
    return save_figure(plot_text_to_image(queries), path)


def recall_curves(embedded: EmbeddedDataset) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Recall at K = 1 … 100 both ways as measured, and by chance."""
    images, image_ids = _first_rows(embedded)
    texts, text_ids = embedded.text_embeds, embedded.text_image_ids
    ranks = {
        "image to text": retrieval_ranks(images, texts, image_ids, text_ids),
        "text to image": retrieval_ranks(texts, images, text_ids, image_ids),
    }
    positives = {"image to text": Counter(Counter(text_ids.tolist()).values()), "text to image": Counter([1])}
    sizes = {"image to text": len(texts), "text to image": len(images)}
    recalls, chance = {}, {}
    for way, of_way in ranks.items():
        ks = range(1, min(CURVE_LENGTH, sizes[way]) + 1)
        recalls[way] = [(of_way <= k).double().mean().item() for k in ks]
        total = positives[way].total()
        chance[way] = [
            sum(n * chance_recall(k, sizes[way], p) for p, n in positives[way].items()) / total for k in ks
        ]
    return recalls, chance


def _first_rows(embedded: EmbeddedDataset) -> tuple[Tensor, Tensor]:
    rows = torch.tensor(_rows_of_distinct_images(embedded), device=embedded.image_ids.device)
    return embedded.image_embeds[rows], embedded.image_ids[rows]


def _rows_of_distinct_images(embedded: EmbeddedDataset) -> list[int]:
    first: dict[int, int] = {}
    for row, image_id in enumerate(embedded.image_ids.tolist()):
        first.setdefault(image_id, row)
    return list(first.values())


class _Results:
    """Looks up what was retrieved for single rows of the data set."""

    def __init__(self, dataset: Dataset, embedded: EmbeddedDataset) -> None:
        self.dataset, self.embedded = dataset.with_format(None), embedded
        self.rows = _rows_of_distinct_images(embedded)
        self.gallery, self.gallery_ids = _first_rows(embedded)
        self.captions = [caption for captions in self.dataset["captions"] for caption in captions]

    def draw(self, count: int, seed: int) -> list[int]:
        """Positions in the gallery, none twice."""
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))
        return order[:count].tolist()

    def image(self, position: int) -> Any:
        return to_rgb(decode_image(self.dataset[self.rows[position]]["image"]))

    def first_text(self, position: int) -> int:
        own = self.embedded.text_image_ids == self.gallery_ids[position]
        return int(own.nonzero()[0])

    def text_query(self, position: int, top_k: int) -> QueryHits:
        """The images for the first caption of an image."""
        text = self.first_text(position)
        query = self.embedded.text_embeds[text]
        best = (self.gallery @ query).topk(min(top_k, len(self.gallery)))
        hits = [
            Hit(self.image(i), score, i == position)
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        own_id = self.gallery_ids[position : position + 1]
        rank = retrieval_ranks(query[None], self.gallery, own_id, self.gallery_ids)
        return QueryHits(self.captions[text], hits, int(rank))

    def image_query(self, position: int, top_k: int) -> QueryHits:
        """The captions for an image."""
        query, own_id = self.gallery[position], self.gallery_ids[position : position + 1]
        texts, text_ids = self.embedded.text_embeds, self.embedded.text_image_ids
        right = text_ids == own_id
        best = (texts @ query).topk(min(top_k, len(texts)))
        hits = [
            Hit(self.captions[i], score, bool(right[i]))
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        rank = retrieval_ranks(query[None], texts, own_id, text_ids)
        return QueryHits(self.image(position), hits, int(rank))

    def batch(self, positions: list[int]) -> tuple[Tensor, list[Any], list[str]]:
        """Similarities, images and first captions of some images."""
        texts = [self.first_text(position) for position in positions]
        similarity = self.gallery[positions] @ self.embedded.text_embeds[texts].T
        return similarity.cpu(), [self.image(p) for p in positions], [self.captions[t] for t in texts]

"""From embeddings and a data set to the images that `hf-customclip evaluate --plots` writes.

The drawing itself is in `hf_customclip.plotting`. Importing this module needs Matplotlib (the `plots` extra).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
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
from ..plotting.style import Figure
from .chance import chance_recall
from .embedded_dataset import EmbeddedDataset
from .retrieval import retrieval_ranks

CURVE_LENGTH = 100
# Languages of different scripts, for images of a few queries.
SCRIPTS = ("en", "zh", "hi", "ko", "ru", "ar", "ja", "th", "bn", "uk")


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
        "text_to_image": draw_text_to_image(
            embedded, dataset, num_queries=num_queries, top_k=top_k, seed=seed
        ),
        "image_to_text": plot_image_to_text([results.image_query(row, top_k) for row in chosen]),
        "similarity": plot_similarity(*results.batch(batch), title="Similarity of a batch"),
        "recall": plot_recall_curve(recalls, chance),
    }
    if log_history is not None and any("loss" in entry for entry in log_history):
        figures["training"] = plot_training_curves(log_history)
    return [save_figure(figure, Path(directory) / f"{name}.png") for name, figure in figures.items()]


def draw_text_to_image(
    embedded: EmbeddedDataset, dataset: Dataset, *, num_queries: int = 5, top_k: int = 5, seed: int = 0
) -> Figure:
    """The images found for the first captions of a few images, which `seed` alone draws."""
    results = _Results(dataset, embedded)
    queries = map(results.first_text, results.draw(num_queries, seed))
    return plot_text_to_image([results.query_of_text(text, top_k) for text in queries])


def plot_retrieval_grid(
    embedded: EmbeddedDataset,
    dataset: Dataset,
    path: str | os.PathLike[str],
    *,
    num_queries: int = 6,
    top_k: int = 5,
    seed: int = 0,
) -> Path:
    """Write one image: a few texts with the images found for them, right ones framed; return its path.

    The texts are chosen by `representative_texts`: as large a share of them is found first as of all texts.
    """
    results = _Results(dataset, embedded)
    ranks = retrieval_ranks(
        embedded.text_embeds, results.gallery, embedded.text_image_ids, results.gallery_ids
    )
    chosen = representative_texts(ranks.tolist(), embedded.languages, num_queries, seed)
    return save_figure(plot_text_to_image([results.query_of_text(text, top_k) for text in chosen]), path)


def representative_texts(
    ranks: Sequence[int], languages: Sequence[str] | None, count: int, seed: int
) -> list[int]:
    """Numbers of texts whose ranks stand at evenly spaced quantiles, the best first; each in another language.

    So pictures of a few queries show neither the best nor the worst: of six texts at a recall@1 of one third,
    two are found first. Of several languages those of different scripts come first, and chance (`seed`) deals them
    out over the quantiles; of texts of equal rank it takes any.
    """
    rng = np.random.default_rng(seed)
    spoken = ["" for _ in ranks] if languages is None else list(languages)
    names = sorted(
        set(spoken), key=lambda name: (SCRIPTS.index(name) if name in SCRIPTS else len(SCRIPTS), name)
    )
    names = rng.permutation((names * count)[:count]).tolist()
    chosen: list[int] = []
    for place, name in enumerate(names):
        own = rng.permutation([text for text, language in enumerate(spoken) if language == name])
        own = own[np.argsort(np.asarray(ranks)[own], kind="stable")]
        chosen.append(int(own[int((place + 0.5) / count * len(own))]))
    return sorted(chosen, key=lambda text: ranks[text])


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
        # Among all candidates the right one is always found: that point says nothing.
        ks = range(1, max(2, min(CURVE_LENGTH + 1, *sizes.values())))
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

    def query_of_text(self, text: int, top_k: int) -> QueryHits:
        """The images for a caption, with its language where there are several."""
        query, own_id = self.embedded.text_embeds[text], self.embedded.text_image_ids[text : text + 1]
        best = (self.gallery @ query).topk(min(top_k, len(self.gallery)))
        hits = [
            Hit(self.image(i), score, bool(self.gallery_ids[i] == own_id))
            for i, score in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        rank = retrieval_ranks(query[None], self.gallery, own_id, self.gallery_ids)
        languages = self.embedded.languages
        several = languages is not None and len(set(languages)) > 1
        said = f"{self.captions[text]} ({languages[text]})" if several and languages else self.captions[text]
        return QueryHits(said, hits, int(rank))

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

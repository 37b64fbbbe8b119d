"""Models of this package in MTEB (2.19 or later), and image-text retrieval on one's own data as tasks of MTEB.

    model = load_for_mteb("outputs/mine")
    tasks = mteb_retrieval_tasks(load_image_text_dataset("my-images/", split="test"), "MyImages")
    result = mteb.evaluate(model, tasks, cache=None)

A published model needs nothing of this: `mteb.get_model("user/my-clip")`, after `import hf_customclip`.

`hit_rate_at_k` is the papers' recall@K, and `retrieval_metrics`'s. MTEB's own `recall_at_k` is the share of *all* right
answers among the first K: of an image with five captions at most 1/5 at K = 1.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, Value
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models import SentenceTransformerEncoderWrapper
from sentence_transformers import SentenceTransformer

from ..modeling import auto as auto  # registers the model with transformers, which loads it


def load_for_mteb(
    folder: str | os.PathLike[str], device: str | None = None
) -> SentenceTransformerEncoderWrapper:
    """A saved model as MTEB takes it. Of a folder MTEB does not read what kinds of input it is for."""
    encoder = SentenceTransformerEncoderWrapper(SentenceTransformer(os.fspath(folder), device=device))
    kinds = {"modalities": ["image", "text"], "name": f"local/{Path(folder).resolve().name}"}
    encoder.mteb_model_meta = encoder.mteb_model_meta.model_copy(update=kinds)
    return encoder


class ImageTextRetrieval(AbsTaskRetrieval):
    """A task made of what is given, with nothing to download.

    Args:
        metadata: what MTEB wants to know of a task.
        queries, corpus: an `id` and an `image` or a `text` in each row.
        relevant: by the id of a query the ids of its right answers.
    """

    def __init__(
        self, metadata: TaskMetadata, queries: Dataset, corpus: Dataset, relevant: dict[str, list[str]]
    ) -> None:
        self.metadata = metadata  # type: ignore[misc]  # MTEB's own tasks have it at the class
        super().__init__()
        right: dict[str, dict[str, int]] = {
            query: dict.fromkeys(found, 1) for query, found in relevant.items()
        }
        split: Any = {"queries": queries, "corpus": corpus, "relevant_docs": right, "top_ranked": None}
        self.dataset = {"default": {"test": split}}
        self.data_loaded = True


def mteb_retrieval_tasks(dataset: Dataset, name: str) -> list[ImageTextRetrieval]:
    """Image to text and text to image, as two tasks `<name>I2TRetrieval` and `<name>T2IRetrieval`.

    Args:
        dataset: `image`, `captions` and `image_id` in each row; an image once.
        name: letters and digits only, as MTEB's task names are.
    """
    undecoded = dataset.cast_column("image", Image(decode=False))["image"][:]
    ids = [f"image{row}" for row in range(len(undecoded))]
    features = Features({"id": Value("string"), "image": Image()})
    images = Dataset.from_dict({"id": ids, "image": undecoded}, features)
    texts: dict[str, list[str]] = {"id": [], "text": []}
    right: dict[str, list[str]] = {}
    for image, captions in zip(ids, dataset["captions"], strict=True):
        right[image] = [f"text{len(texts['id']) + number}" for number in range(len(captions))]
        texts["id"] += right[image]
        texts["text"] += captions
    sentences = Dataset.from_dict(texts, Features({"id": Value("string"), "text": Value("string")}))
    image_of = {text: [image] for image, found in right.items() for text in found}
    return [
        ImageTextRetrieval(_metadata(name, "i2t"), images, sentences, right),
        ImageTextRetrieval(_metadata(name, "t2i"), sentences, images, image_of),
    ]


def _metadata(name: str, category: Any) -> TaskMetadata:
    return TaskMetadata(
        name=f"{name}{category.upper()}Retrieval",
        description=f"Image-text retrieval on {name}.",
        reference=None,
        dataset={"path": f"local/{name}", "revision": "none"},
        type="Any2AnyRetrieval",
        category=category,
        modalities=["image", "text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="hit_rate_at_1",
        date=None,
        domains=None,
        task_subtypes=["Image Text Retrieval"],
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )

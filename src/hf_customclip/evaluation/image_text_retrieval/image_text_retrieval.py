"""Image-text retrieval as a metric of the `evaluate` library; the numbers are `hf_customclip`'s."""

import datasets
import evaluate
import numpy as np

from hf_customclip.evaluation.retrieval import retrieval_metrics

_DESCRIPTION = """\
Image-text retrieval by the protocol of the papers on Flickr30k and COCO: how often the right caption is
among the top 1, 5 and 10 of all captions for an image, and the right image among the top 1, 5 and 10 of all
images for a caption. An image may have any number of captions, and each of them is right. Ties count against,
and an image that appears in several rows counts once.
"""

_KWARGS_DESCRIPTION = """
Args:
    image_embeds (`list` of `list` of `float`): for every caption the embedding of its image.
    text_embeds (`list` of `list` of `float`): the embedding of every caption, of the same width.
    image_ids (`list` of `int` or `str`): for every caption which image it describes.

    Rows with the same image id are captions of one image, whose embedding is taken from the first of them.
    Embeddings are compared by cosine similarity.

Returns:
    `i2t_recall@1`, `i2t_recall@5`, `i2t_recall@10`: share of images with a right caption that high, 0 to 1.
    `t2i_recall@1`, `t2i_recall@5`, `t2i_recall@10`: share of captions with the right image that high, 0 to 1.
    `i2t_median_rank`, `i2t_mean_rank`, `t2i_median_rank`, `t2i_mean_rank`: of the best right answer, from 1.
    `rsum`: the six recalls added, times 100.

Examples:

    >>> metric = evaluate.load("image_text_retrieval")
    >>> results = metric.compute(
    ...     image_embeds=[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]],
    ...     text_embeds=[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]],
    ...     image_ids=[0, 0, 1],
    ... )
    >>> results["i2t_recall@1"], round(results["t2i_recall@1"], 4)
    (0.5, 0.6667)
"""

_CITATION = """\
@inproceedings{karpathy2015deep,
  title = {Deep Visual-Semantic Alignments for Generating Image Descriptions},
  author = {Karpathy, Andrej and Fei-Fei, Li},
  booktitle = {IEEE Conference on Computer Vision and Pattern Recognition},
  year = {2015}
}
"""


def _features(id_type: str) -> datasets.Features:
    vector = datasets.List(datasets.Value("float32"))
    return datasets.Features(
        {"image_embeds": vector, "text_embeds": vector, "image_ids": datasets.Value(id_type)}
    )


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ImageTextRetrieval(evaluate.Metric):
    """Recall at 1, 5 and 10, median and mean rank both ways, and rsum."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            # The first that fits is taken; text ids first, or "007" would become 7.
            features=[_features("string"), _features("int64")],
            reference_urls=["https://cs.stanford.edu/people/karpathy/deepimagesent/"],
        )

    def _compute(self, image_embeds, text_embeds, image_ids) -> dict[str, float]:  # type: ignore[no-untyped-def]
        ids = np.unique(np.asarray(image_ids), return_inverse=True)[1]
        return retrieval_metrics(_normalised(image_embeds), _normalised(text_embeds), ids, ids)


def _normalised(embeds: list[list[float]]) -> np.ndarray:
    rows = np.asarray(embeds, dtype=np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)

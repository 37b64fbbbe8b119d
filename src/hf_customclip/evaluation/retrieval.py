"""Image-text retrieval by the papers' protocol, in bounded memory.

A query counts as found at K when *any* right candidate is among its top K: an image has several captions,
and each of them is right. Three rules keep the numbers honest:

- **Ties count against.** The rank is 1 + the number of wrong candidates that do not score lower than the best
  right one, so a collapsed model, for which everything ties, gets the worst rank instead of a lucky order's.
- **NaN loses.** A right candidate with a NaN score is never found; a wrong one with a NaN score is ahead.
- **An image counts once.** Images whose id was seen before are dropped from the gallery and from the queries.

Scores are computed in float64 and compared in float32, so that equal embeddings tie wherever they stand (a
float32 matrix product may differ in its last bit between the middle and the edge of one block). The result
then does not depend on the block size, the number of threads or the device.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RECALL_AT = (1, 5, 10)
BLOCK_ELEMENTS = 2**21
"""Scores computed at a time: under 100 MB besides the embeddings, however many there are."""

ArrayLike = Tensor | np.ndarray


@dataclass(frozen=True)
class RetrievalRanks:
    """The rank of the best right answer for every query of a data set, from 1.

    Attributes:
        images: `[num_images]`, of each distinct image among the texts, in order of first appearance.
        texts: `[num_texts]`, of each text among the images.
        image_of_text: `[num_texts]`, the position in `images` of the image that each text describes.
    """

    images: Tensor
    texts: Tensor
    image_of_text: Tensor

    def metrics(self) -> dict[str, float]:
        """Recall@1/5/10 (0 to 1), median and mean rank both ways, and `rsum`, the recalls' sum times 100."""
        metrics = rank_metrics(self.images, "i2t_") | rank_metrics(self.texts, "t2i_")
        metrics["rsum"] = 100 * sum(value for name, value in metrics.items() if "recall@" in name)
        return metrics


def retrieval_ranks(
    queries: ArrayLike,
    candidates: ArrayLike,
    query_ids: ArrayLike,
    candidate_ids: ArrayLike,
    block_elements: int = BLOCK_ELEMENTS,
) -> Tensor:
    """1-based rank of the best right candidate of every query, as an int64 tensor `[num_queries]`.

    Candidates `[num_candidates, d]` are ranked by their dot product with the queries `[num_queries, d]`, so
    both are expected L2-normalised. A candidate is right when its id is the query's.

    Raises:
        ValueError: the shapes do not belong together, or a query has no right candidate.
    """
    query_side = _checked_side(queries, query_ids, "query")
    candidate_side = _checked_side(candidates, candidate_ids, "candidate")
    return _two_way_ranks(query_side, candidate_side, [], block_elements)[0]


def ranks_both_ways(
    image_embeds: ArrayLike,
    text_embeds: ArrayLike,
    image_ids: ArrayLike,
    text_image_ids: ArrayLike,
    text_groups: ArrayLike | None = None,
    block_elements: int = BLOCK_ELEMENTS,
) -> RetrievalRanks:
    """The ranks behind `retrieval_metrics`.

    Args:
        text_groups: `[num_texts]` or `[num_texts, kinds]` integers from 0, for a laxer protocol: every text of
            a group is right for every image that has a text of that group, and the image for the text. Groups
            are equal captions, say, or the images of one product.

    The other arguments and errors are those of `retrieval_metrics`.
    """
    images, ids = _first_of_each_id(*_checked_side(image_embeds, image_ids, "image"))
    texts, text_ids = _checked_side(text_embeds, text_image_ids, "text")
    text_ids = text_ids.to(ids.device)
    _check_all_have_right(text_ids, ids, "text", "image")
    ordered, order = ids.sort()
    image_of_text = order[torch.searchsorted(ordered, text_ids.contiguous())]
    also: list[Labels] = []
    if text_groups is not None:
        groups = torch.as_tensor(text_groups, device=ids.device).long().reshape(len(text_ids), -1)
        for kind in groups.unbind(1):
            also += _labels_of_groups(kind, image_of_text, len(ids))
    ranks = _two_way_ranks((images, ids), (texts, text_ids), also, block_elements, names=("image", "text"))
    return RetrievalRanks(*ranks, image_of_text)


def retrieval_metrics(
    image_embeds: ArrayLike,
    text_embeds: ArrayLike,
    image_ids: ArrayLike,
    text_image_ids: ArrayLike,
    block_elements: int = BLOCK_ELEMENTS,
) -> dict[str, float]:
    """Recall@1/5/10 (0 to 1), median and mean rank both ways, and `rsum` (the six recalls' sum times 100).

    Args:
        image_embeds: `[num_images, d]`, L2-normalised by the caller; of equal ids the first is used.
        text_embeds: `[num_texts, d]`, L2-normalised by the caller; any number of texts per image.
        image_ids: `[num_images]`, integers.
        text_image_ids: `[num_texts]`, the id of the image that each text describes.
        block_elements: scores computed at a time, which bounds the memory.

    Raises:
        ValueError: the shapes do not belong together, or an image has no text, or a text has no image.
    """
    sides = image_embeds, text_embeds, image_ids, text_image_ids
    return ranks_both_ways(*sides, block_elements=block_elements).metrics()


def rank_metrics(ranks: Tensor, prefix: str = "") -> dict[str, float]:
    """Recall@1/5/10, median and mean of 1-based `ranks` `[num_queries]`."""
    metrics = {f"{prefix}recall@{k}": (ranks <= k).double().mean().item() for k in RECALL_AT}
    # torch.median returns the lower of the two middle values, where a median is their mean.
    metrics[f"{prefix}median_rank"] = float(np.median(ranks.cpu().numpy()))
    metrics[f"{prefix}mean_rank"] = ranks.double().mean().item()
    return metrics


Side = tuple[Tensor, Tensor]  # embeddings [n, d] and their ids [n]
Labels = tuple[Tensor, Tensor]  # of queries and of candidates; equal ones mark right pairs


def _checked_side(embeds: ArrayLike, ids: ArrayLike, name: str) -> Side:
    embeds = torch.as_tensor(embeds).detach()
    if embeds.device.type == "mps":  # has no float64
        embeds = embeds.cpu()
    ids = torch.as_tensor(ids, device=embeds.device)
    if embeds.ndim != 2 or ids.shape != embeds.shape[:1] or len(ids) == 0:
        raise ValueError(
            f"The {name} embeddings must be a matrix with one row per {name} id and at least one row, "
            f"but the embeddings have shape {tuple(embeds.shape)} and the ids {tuple(ids.shape)}."
        )
    if ids.dtype.is_floating_point:
        raise ValueError(f"The {name} ids must be integers, but they are {ids.dtype}.")
    return embeds, ids.long()


def _first_of_each_id(embeds: Tensor, ids: Tensor) -> Side:
    unique, inverse = torch.unique(ids, return_inverse=True)
    position = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(unique, len(ids)).scatter_reduce_(0, inverse, position, "amin")
    keep = first.sort().values
    return embeds[keep], ids[keep]


def _check_all_have_right(ids: Tensor, other_ids: Tensor, name: str, other: str) -> None:
    missing = ids[~torch.isin(ids, other_ids)]
    if len(missing):
        raise ValueError(
            f"{len(missing)} of {len(ids)} {name} rows have no right {other}: no {other} has the id "
            f"{missing[0].item()}. Every {name} needs at least one {other} with the same id."
        )


def _labels_of_groups(text_groups: Tensor, image_of_text: Tensor, num_images: int) -> list[Labels]:
    """Labels of images and texts, of which one pair is equal where an image has a text of the text's group.

    An image has as many labels as texts of different groups, so there are as many pairs of label columns.
    """
    pairs = torch.unique(torch.stack([image_of_text, text_groups]), dim=1)  # sorted by image
    images, groups = pairs[0].contiguous(), pairs[1]
    place = torch.arange(len(images), device=images.device) - torch.searchsorted(images, images)
    columns = []
    for number in range(int(place.max()) + 1):
        labels = torch.full((num_images,), -1, device=images.device)
        chosen = place == number
        labels[images[chosen]] = groups[chosen]
        columns.append((labels, text_groups))
    return columns


def _two_way_ranks(
    queries: Side,
    candidates: Side,
    also_right: list[Labels],
    block_elements: int,
    names: tuple[str, str] = ("query", "candidate"),
) -> tuple[Tensor, Tensor]:
    """Ranks of the queries among the candidates and, from the same scores, the other way round.

    A pair is right where ids are equal, or labels of `also_right`. Only the queries are checked here: a
    candidate without a right query gets the worst rank.
    """
    (left, left_ids), (right, right_ids) = queries, candidates
    right, right_ids = right.to(left.device), right_ids.to(left.device)
    if left.shape[1] != right.shape[1]:
        raise ValueError(
            f"The {names[0]} embeddings are {left.shape[1]} wide and the {names[1]} embeddings "
            f"{right.shape[1]}; they must come from the same space."
        )
    _check_all_have_right(left_ids, right_ids, *names)
    labels = [(left_ids, right_ids), *also_right]
    best_left, best_right = _best_right_scores(left, right, labels, block_elements)
    lower_left, lower_right = torch.zeros_like(left_ids), torch.zeros_like(right_ids)
    number_left, number_right = torch.zeros_like(left_ids), torch.zeros_like(right_ids)
    for rows, columns in _blocks(len(left), len(right), block_elements):
        scores = (left[rows].double() @ right[columns].double().T).float()
        is_right = left_ids[rows, None] == right_ids[None, columns]
        for of_left, of_right in also_right:
            is_right |= of_left[rows, None] == of_right[None, columns]
        # Right candidates do not compete: they count as lower than the best right one.
        scores.masked_fill_(is_right, -torch.inf)
        lower_left[rows] += (scores < best_left[rows, None]).sum(1, dtype=torch.int32)
        lower_right[columns] += (scores < best_right[None, columns]).sum(0, dtype=torch.int32)
        number_left[rows] += is_right.sum(1, dtype=torch.int32)
        number_right[columns] += is_right.sum(0, dtype=torch.int32)
    return (
        _ranks_from_lower(lower_left, len(right), number_left),
        _ranks_from_lower(lower_right, len(left), number_right),
    )


def _ranks_from_lower(lower: Tensor, num_candidates: int, num_right: Tensor) -> Tensor:
    # Where no right candidate has a usable score nothing is lower, not even the other right ones.
    return torch.minimum(1 + num_candidates - lower, 1 + num_candidates - num_right)


def _best_right_scores(
    left: Tensor, right: Tensor, labels: list[Labels], block_elements: int
) -> tuple[Tensor, Tensor]:
    """The best score of a right pair for every query and every candidate; -inf where there is none."""
    best_left = torch.full((len(left),), -torch.inf, device=left.device)
    best_right = torch.full((len(right),), -torch.inf, device=left.device)
    pairs_at_a_time = max(1, block_elements // (4 * left.shape[1]))
    for of_left, of_right in labels:
        for i, j in _right_pairs(of_left, of_right, pairs_at_a_time):
            scores = (left[i].double() * right[j].double()).sum(1).float()
            scores.masked_fill_(scores.isnan(), -torch.inf)
            best_left.scatter_reduce_(0, i, scores, "amax")
            best_right.scatter_reduce_(0, j, scores, "amax")
    return best_left, best_right


def _right_pairs(ids: Tensor, other_ids: Tensor, pairs_at_a_time: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Positions (i, j) with `ids[i] == other_ids[j]`, in pieces: all may not fit in memory."""
    ordered, order = other_ids.sort(stable=True)
    ids = ids.contiguous()
    first = torch.searchsorted(ordered, ids)
    ends = (torch.searchsorted(ordered, ids, right=True) - first).cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    total = int(ends[-1])
    for begin in range(0, total, pairs_at_a_time):
        pair = torch.arange(begin, min(begin + pairs_at_a_time, total), device=ids.device)
        i = torch.searchsorted(ends, pair, right=True)
        yield i, order[first[i] + pair - starts[i]]


def _blocks(num_rows: int, num_columns: int, block_elements: int) -> Iterator[tuple[slice, slice]]:
    """Tiles of at most `block_elements` scores, square where both sides are large."""
    width = min(num_columns, max(1, int(block_elements**0.5)))
    height = max(1, block_elements // width)
    for row in range(0, num_rows, height):
        for column in range(0, num_columns, width):
            yield slice(row, row + height), slice(column, column + width)

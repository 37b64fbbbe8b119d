"""Pins: the retrieval protocol (any right caption counts, ties and NaN count against, duplicate images once),
that blocks and NumPy agree, and that the one-caption-per-image mistake gives another number."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_customclip.evaluation.retrieval import ranks_both_ways, retrieval_metrics, retrieval_ranks


def scores_as_embeddings(scores):
    """Queries and candidates whose dot products are exactly `scores`: the candidates are unit vectors."""
    queries = torch.tensor(scores, dtype=torch.float32)
    return queries, torch.eye(queries.shape[1])


def brute_force_ranks(scores, query_ids, candidate_ids):
    """Independent of the library: plain loops over the float32 scores."""
    ranks = []
    for row, query_id in zip(scores, query_ids, strict=True):
        right = [s for s, c in zip(row, candidate_ids, strict=True) if c == query_id and not np.isnan(s)]
        wrong = [s for s, c in zip(row, candidate_ids, strict=True) if c != query_id]
        best = max(right, default=None)
        ranks.append(1 + sum(best is None or not (s < best) for s in wrong))
    return ranks


def test_ranks_of_a_hand_made_matrix():
    queries, candidates = scores_as_embeddings(3 * [[0.9, 0.8, 0.1, 0.2]])
    ranks = retrieval_ranks(queries, candidates, torch.tensor([0, 1, 2]), torch.tensor([0, 0, 1, 2]))
    # id 0: its candidate leads. id 1: its 0.1 is behind all three others. id 2: its 0.2 is behind two.
    assert ranks.tolist() == [1, 4, 3]
    assert ranks.dtype == torch.int64


def test_best_of_several_right_candidates_counts_and_right_ones_do_not_compete():
    queries, candidates = scores_as_embeddings([[0.5, 0.9, 0.8, 0.7]])
    # Right: positions 0, 2 and 3, the best 0.8. Only position 1 is ahead; 0.7 and 0.5 are not wrong.
    assert retrieval_ranks(queries, candidates, torch.tensor([7]), torch.tensor([7, 8, 7, 7])).tolist() == [2]


def test_ties_count_against():
    queries, candidates = scores_as_embeddings(2 * [[0.5, 0.5, 0.5, 0.1]])
    assert retrieval_ranks(queries, candidates, torch.tensor([0, 2]), torch.arange(4)).tolist() == [3, 3]


@pytest.mark.parametrize("num_images", [2, 7, 33])
def test_a_collapsed_model_gets_the_worst_rank_wherever_the_rows_stand(num_images):
    generator = torch.Generator().manual_seed(0)
    vector = torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=1)
    ids = torch.arange(num_images)
    metrics = retrieval_metrics(
        vector.repeat(num_images, 1), vector.repeat(5 * num_images, 1), ids, ids.repeat_interleave(5)
    )
    assert metrics["i2t_mean_rank"] == 1 + 5 * (num_images - 1)
    assert metrics["t2i_mean_rank"] == num_images
    assert metrics["t2i_recall@1"] == metrics["i2t_recall@1"] == 0


def test_nan_loses():
    nan = float("nan")
    candidates, ids = torch.eye(3), torch.arange(3)
    assert retrieval_ranks(torch.full((1, 3), nan), candidates, ids[:1], ids).tolist() == [3]
    candidates[0] = nan
    queries = torch.tensor([[0.9, 0.1, 0.2], [0.0, 0.9, 0.1], [0.5, 0.1, 0.6]])
    # Query 0's only right candidate is NaN: the worst rank, 3. For queries 1 and 2 the NaN one is ahead.
    assert retrieval_ranks(queries, candidates, ids, ids).tolist() == [3, 2, 2]


def test_nan_beside_a_finite_right_candidate_does_not_spoil_it():
    candidates = torch.tensor([[float("nan"), 0.0], [0.0, 0.9], [0.0, 0.5]])
    query, query_id = torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    ranks = retrieval_ranks(query, candidates, query_id, torch.tensor([0, 0, 1]))
    assert ranks.tolist() == [1]


def test_metrics_of_a_hand_made_matrix():
    """Three images, four texts (image 0 has two), the scores written out, every number worked by hand."""
    images, texts = scores_as_embeddings([[0.1, 0.6, 0.9, 0.3], [0.2, 0.7, 0.5, 0.4], [0.3, 0.2, 0.1, 0.0]])
    metrics = retrieval_metrics(images, texts, torch.tensor([10, 11, 12]), torch.tensor([10, 10, 11, 12]))
    # i2t: image 10's best is 0.6, behind 0.9: rank 2. Image 11's 0.5 is behind 0.7: 2. Image 12's 0.0: 4.
    # t2i: text 0 (0.1, .2, .3): rank 3. text 1 (0.6, .7, .2): 2. text 2 (0.9, 0.5, .1), right 0.5: 2.
    #      text 3 (.3, .4, .0), right .0: 3.
    assert metrics == pytest.approx(
        {
            "i2t_recall@1": 0.0,
            "i2t_recall@5": 1.0,
            "i2t_recall@10": 1.0,
            "t2i_recall@1": 0.0,
            "t2i_recall@5": 1.0,
            "t2i_recall@10": 1.0,
            "i2t_median_rank": 2.0,
            "t2i_median_rank": 2.5,
            "i2t_mean_rank": 8 / 3,
            "t2i_mean_rank": 2.5,
            "rsum": 400.0,
        },
        abs=1e-12,
    )


def test_duplicate_images_count_once():
    """The dataset lists an image once per caption: the copies neither ask nor fill the gallery."""
    generator = torch.Generator().manual_seed(1)
    images, texts = torch.randn(6, 8, generator=generator), torch.randn(12, 8, generator=generator)
    ids, text_ids = torch.arange(6), torch.arange(6).repeat_interleave(2)
    once = retrieval_metrics(images, texts, ids, text_ids)
    twice = retrieval_metrics(images.repeat_interleave(2, 0), texts, ids.repeat_interleave(2), text_ids)
    assert once == twice


def test_one_caption_per_image_gives_a_different_number():
    """The common mistake: keep one caption per image. Here it moves image-to-text recall@1 from 1 to 0."""
    images = torch.eye(2)
    texts = torch.tensor([[0.1, 0.4], [0.9, 0.0], [0.4, 0.1], [0.0, 0.9]])
    text_ids = torch.tensor([0, 0, 1, 1])
    right = retrieval_metrics(images, texts, torch.arange(2), text_ids)
    mistaken = retrieval_metrics(images, texts[::2], torch.arange(2), text_ids[::2])
    assert right["i2t_recall@1"] == 1.0
    assert mistaken["i2t_recall@1"] == 0.0


embedding_values = st.integers(-2, 2)


@st.composite
def retrieval_problems(draw):
    """Random image ids, 1 to 4 captions each in any order; coarse embeddings make ties common."""
    ids = draw(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=7, unique=True))
    text_ids = draw(st.permutations([i for i in ids for _ in range(draw(st.integers(1, 4)))]))
    image_ids = ids + draw(st.lists(st.sampled_from(ids), max_size=3))
    rows = st.lists(embedding_values, min_size=3, max_size=3)
    images = [draw(rows) for _ in image_ids]
    texts = [draw(rows) for _ in text_ids]
    return np.array(images, "f4"), np.array(texts, "f4"), np.array(image_ids), np.array(text_ids)


@settings(max_examples=150, deadline=None)
@given(retrieval_problems(), st.integers(1, 40))
def test_agrees_with_brute_force_for_any_block_size(problem, block_elements):
    images, texts, image_ids, text_ids = problem
    first = [i for i, x in enumerate(image_ids) if x not in image_ids[:i]]
    gallery, gallery_ids = images[first], image_ids[first]
    i2t = brute_force_ranks(gallery @ texts.T, gallery_ids, text_ids)
    t2i = brute_force_ranks(texts @ gallery.T, text_ids, gallery_ids)
    assert retrieval_ranks(gallery, texts, gallery_ids, text_ids, block_elements).tolist() == i2t
    metrics = retrieval_metrics(images, texts, image_ids, text_ids, block_elements)
    for way, ranks in (("i2t", np.array(i2t)), ("t2i", np.array(t2i))):
        for k in (1, 5, 10):
            assert metrics[f"{way}_recall@{k}"] == pytest.approx((ranks <= k).mean())
        assert metrics[f"{way}_median_rank"] == np.median(ranks)
        assert metrics[f"{way}_mean_rank"] == pytest.approx(ranks.mean())


def test_agrees_with_brute_force_on_normalised_embeddings():
    rng = np.random.default_rng(0)
    text_ids = np.repeat(np.arange(60), rng.integers(1, 6, 60))
    images = rng.normal(size=(60, 32))
    texts = images[text_ids] + 2 * rng.normal(size=(len(text_ids), 32))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    metrics = retrieval_metrics(images.astype("f4"), texts.astype("f4"), np.arange(60), text_ids)
    ranks = np.array(brute_force_ranks(images @ texts.T, np.arange(60), text_ids))
    assert 0 < metrics["i2t_recall@1"] < 1
    assert metrics["i2t_recall@5"] == pytest.approx((ranks <= 5).mean(), abs=1e-6)
    assert metrics["i2t_mean_rank"] == pytest.approx(ranks.mean(), abs=1e-6)


def test_many_blocks_equal_one_block_bit_for_bit():
    generator = torch.Generator().manual_seed(3)
    images = torch.nn.functional.normalize(torch.randn(101, 64, generator=generator), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(503, 64, generator=generator), dim=1)
    ids = torch.arange(101)
    text_ids = torch.cat([ids, torch.randint(0, 101, (402,), generator=generator)])
    one = retrieval_metrics(images, texts, ids, text_ids, block_elements=10**6)
    assert all(retrieval_metrics(images, texts, ids, text_ids, n) == one for n in (1000, 5003, 17))


def test_a_query_without_a_right_candidate_is_an_error_that_says_so():
    eye = torch.eye(3)
    with pytest.raises(ValueError, match=re.escape("1 of 3 query rows have no right candidate")):
        retrieval_ranks(eye, eye, torch.tensor([0, 1, 5]), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="no text has the id 5"):
        retrieval_metrics(eye, eye, torch.tensor([0, 1, 5]), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match="no image has the id 9"):
        retrieval_metrics(eye, torch.eye(4)[:, :3], torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2, 9]))


def test_shapes_that_do_not_belong_together_are_errors():
    eye, ids = torch.eye(3), torch.arange(3)
    with pytest.raises(ValueError, match="one row per image id"):
        retrieval_metrics(eye, eye, ids[:2], ids)
    with pytest.raises(ValueError, match="3 wide and the text embeddings 4"):
        retrieval_metrics(eye, torch.eye(4)[:3], ids, ids)
    with pytest.raises(ValueError, match="must be integers"):
        retrieval_metrics(eye, eye, ids.float(), ids)


def test_the_order_of_rows_does_not_matter():
    """Several processes gather their rows in another order than one process reads them."""
    generator = torch.Generator().manual_seed(4)
    images, texts = torch.randn(20, 8, generator=generator), torch.randn(60, 8, generator=generator)
    ids = torch.arange(20)
    text_ids = torch.cat([ids, torch.randint(0, 20, (40,), generator=generator)])
    i, t = torch.randperm(20, generator=generator), torch.randperm(60, generator=generator)
    assert retrieval_metrics(images[i], texts[t], ids[i], text_ids[t]) == retrieval_metrics(
        images, texts, ids, text_ids
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_numbers():
    generator = torch.Generator().manual_seed(5)
    images, texts = torch.randn(300, 64, generator=generator), torch.randn(900, 64, generator=generator)
    ids = torch.arange(300)
    rows = (images, texts, ids, ids.repeat(3))
    # Not even in a mixed-precision context, or with TF32 on.
    torch.set_float32_matmul_precision("high")
    with torch.autocast("cuda", dtype=torch.bfloat16):
        on_gpu = retrieval_metrics(*(row.cuda() for row in rows))
    torch.set_float32_matmul_precision("highest")
    assert on_gpu == retrieval_metrics(*rows)


def test_autocast_does_not_coarsen_the_scores():
    generator = torch.Generator().manual_seed(6)
    images, texts = torch.randn(50, 64, generator=generator), torch.randn(50, 64, generator=generator)
    ids = torch.arange(50)
    plain = retrieval_metrics(images, texts, ids, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(images, texts, ids, ids) == plain


@settings(max_examples=60, deadline=None)
@given(retrieval_problems(), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_groups_of_texts_are_right_for_each_others_images(problem, block_elements, kinds, seed):
    """Brute force over every pair: a text is right for an image that has a text of one of its groups."""
    images, texts, image_ids, text_ids = problem
    groups = np.random.default_rng(seed).integers(0, 3, (len(texts), kinds))
    first = [i for i, x in enumerate(image_ids) if x not in image_ids[:i]]
    right = np.array(
        [
            [
                text_ids[t] == image_ids[i] or (groups[text_ids == image_ids[i]] == groups[t]).any()
                for t in range(len(texts))
            ]
            for i in first
        ]
    )
    scores = images[first] @ texts.T
    found = ranks_both_ways(images, texts, image_ids, text_ids, groups, block_elements)
    for ranks, of, is_right in ((found.images, scores, right), (found.texts, scores.T, right.T)):
        expected = [1 + sum(row[~own] >= row[own].max()) for row, own in zip(of, is_right, strict=True)]
        assert ranks.tolist() == expected
    owners = [image_ids[first][i] for i in found.image_of_text.tolist()]
    assert owners == text_ids.tolist()


def test_two_images_of_one_caption_by_hand():
    """Image 1 scores higher for image 0's caption, which both have: a miss by the papers, found by the groups."""
    images, texts = torch.tensor([[0.8, 0.0, 0.1], [0.9, 0.9, 0.2], [0.1, 0.2, 0.9]]), torch.eye(3)
    ids = torch.arange(3)
    strict = ranks_both_ways(images, texts, ids, ids)
    shared = ranks_both_ways(images, texts, ids, ids, torch.tensor([0, 0, 1]))
    assert strict.texts.tolist() == [2, 1, 1] and shared.texts.tolist() == [1, 1, 1]
    assert strict.images.tolist() == [1, 2, 1] and shared.images.tolist() == [1, 1, 1]

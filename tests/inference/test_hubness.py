"""Pins: the hubness correction against CSLS computed by loops over plain lists; one more dimension ranks the same;
the bank comes from training data, is saved with a model and found again; corrected metrics use it in both
directions."""

import pytest
import torch
import torch.nn.functional as F

from hf_customclip.evaluation.corrected import corrected_retrieval_metrics
from hf_customclip.evaluation.retrieval import retrieval_metrics
from hf_customclip.inference.hubness import HubnessBank, append_bias, append_one, hubness_bias


def rows(count, seed, dim=8):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=-1).float()


def cosine(a, b):
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))


def bias_by_loops(embeds, bank, k):
    return [sum(sorted((cosine(e, b) for b in bank), reverse=True)[:k]) / k / 2 for e in embeds]


@pytest.mark.parametrize("k", [1, 3, 10])
def test_bias_by_brute_force(k):
    embeds, bank = rows(7, 0), rows(12, 1)
    torch.testing.assert_close(hubness_bias(embeds, bank, k), torch.tensor(bias_by_loops(embeds, bank, k)))


def test_a_small_bank_is_used_whole():
    embeds, bank = rows(4, 0), rows(3, 1)
    torch.testing.assert_close(hubness_bias(embeds, bank), torch.tensor(bias_by_loops(embeds, bank, 3)))
    assert hubness_bias(embeds[:0], bank).shape == (0,)


def test_one_more_dimension_ranks_the_same():
    images, queries, bank = rows(20, 0), rows(5, 1), rows(12, 2)
    bias = hubness_bias(images, bank)
    expected = queries @ images.T - bias
    torch.testing.assert_close(append_one(queries) @ append_bias(images, bias).T, expected)


def test_csls_as_published_ranks_the_same():
    """2 cos(x, y) - r(x) - r(y): the query's own term is the same for all its candidates."""
    images, queries, bank, k = rows(9, 0), rows(6, 1), rows(12, 2), 4
    r_images = [2 * value for value in bias_by_loops(images, bank, k)]
    ours = append_one(queries) @ append_bias(images, hubness_bias(images, bank, k)).T
    for q, query in enumerate(queries):
        r_query = sum(sorted((cosine(query, i) for i in images), reverse=True)[:k]) / k
        csls = [2 * cosine(query, image) - r_query - r for image, r in zip(images, r_images, strict=True)]
        by_csls = sorted(range(len(images)), key=lambda i: -csls[i])
        assert ours[q].argsort(descending=True).tolist() == by_csls


def test_a_hub_is_moved_back():
    """An image that is near to every training caption stands first for every query, until corrected."""
    centre = torch.zeros(8)
    centre[0] = 1
    towards = F.normalize(rows(40, 0) * 0.5 + centre, dim=-1)  # captions crowd around a centre
    images = torch.cat([F.normalize(towards[:5] - 0.8 * centre, dim=-1), centre[None]])
    ids = torch.arange(6)
    texts = torch.cat([towards[:5], centre[None]])
    bank = HubnessBank(image_embeds=images[:5], text_embeds=towards[5:])
    raw = retrieval_metrics(images, texts, ids, ids)
    corrected = corrected_retrieval_metrics(images, texts, ids, ids, bank)
    assert raw["t2i_recall@1"] < corrected["csls_t2i_recall@1"]


def test_metrics_both_ways_by_hand_made_scores():
    images, texts = rows(10, 0), rows(20, 1)
    ids, text_ids = torch.arange(10), torch.arange(10).repeat_interleave(2)
    bank = HubnessBank(rows(15, 2), rows(16, 3))
    found = corrected_retrieval_metrics(images, texts, ids, text_ids, bank)
    for_images = texts @ images.T - torch.tensor(bias_by_loops(images, bank.text_embeds, 10))
    for_texts = images @ texts.T - torch.tensor(bias_by_loops(texts, bank.image_embeds, 10))
    t2i = [(scores.argmax() == own).item() for scores, own in zip(for_images, text_ids, strict=True)]
    i2t = [text_ids[scores.argmax()].item() == own for own, scores in enumerate(for_texts)]
    assert found["csls_t2i_recall@1"] == pytest.approx(sum(t2i) / 20)
    assert found["csls_i2t_recall@1"] == pytest.approx(sum(i2t) / 10)
    recalls = [value for name, value in found.items() if "recall@" in name]
    assert len(recalls) == 6 and found["csls_rsum"] == pytest.approx(100 * sum(recalls))


def test_saved_and_found_again(tmp_path):
    bank = HubnessBank(rows(5, 0), rows(6, 1))
    assert HubnessBank.load(tmp_path) is None
    bank.save(tmp_path)
    again = HubnessBank.load(tmp_path)
    torch.testing.assert_close(again.image_embeds, bank.image_embeds, atol=1e-3, rtol=0)
    torch.testing.assert_close(again.text_embeds, bank.text_embeds, atol=1e-3, rtol=0)

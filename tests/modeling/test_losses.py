"""Pins: both losses on matrices worked by hand, against float64 brute force, with captions of one image
neither right nor wrong for each other, and over blocks; the floor of the loss without a temperature; with
`matryoshka_dims` the mean over cut embeddings."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model

from hf_customclip.modeling.losses_custom_clip import sigmoid_contrastive_loss, softmax_contrastive_loss

ONE = torch.tensor(1.0)


def unit_rows(*rows):
    return F.normalize(torch.tensor(rows, dtype=torch.float32), dim=-1)


def random_pairs(count, seed, dim=6):
    generator = torch.Generator().manual_seed(seed)
    return (F.normalize(torch.randn(count, dim, generator=generator), dim=-1) for _ in range(2))


def softmax_brute_force(images, texts, scale, ids):
    """Sum by sum, in float64: of each pair, its own similarity against those of all that are not of the same image."""
    similarity = (images.double() @ texts.double().T * float(scale)).tolist()
    count, total = len(similarity), 0.0
    for i in range(count):
        rivals = [j for j in range(count) if j == i or ids is None or ids[j] != ids[i]]
        row = sum(math.exp(similarity[i][j]) for j in rivals)
        column = sum(math.exp(similarity[j][i]) for j in rivals)
        total += math.log(row) + math.log(column) - 2 * similarity[i][i]
    return total / (2 * count)


def sigmoid_brute_force(images, texts, scale, bias, ids):
    logits = (images.double() @ texts.double().T * float(scale) + float(bias)).tolist()
    total = 0.0
    for i, row in enumerate(logits):
        for j, logit in enumerate(row):
            if i == j or ids is None or ids[i] != ids[j]:
                total += math.log1p(math.exp(-logit if i == j else logit))
    return total / len(logits)


def test_softmax_by_hand():
    """Cosines [[1, 0], [.6, .8]]: rows lose ln(1+1/e), ln(1+e^-.2), columns ln(1+e^-.4), ln(1+e^-.8)."""
    images, texts = unit_rows([1, 0], [0.6, 0.8]), unit_rows([1, 0], [0, 1])
    by_hand = (0.3132617 + 0.5981389 + 0.5130153 + 0.3711007) / 4
    assert softmax_contrastive_loss(images, texts, ONE).item() == pytest.approx(by_hand, abs=1e-6)


def test_sigmoid_by_hand():
    """The same cosines times 2, minus 1: logits [[1, -1], [0.2, 0.6]], the diagonal right."""
    images, texts = unit_rows([1, 0], [0.6, 0.8]), unit_rows([1, 0], [0, 1])
    by_hand = (0.3132617 + 0.3132617 + 0.7981389 + 0.4374880) / 2
    loss = sigmoid_contrastive_loss(images, texts, torch.tensor(2.0), torch.tensor(-1.0))
    assert loss.item() == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("batch", [2, 128])
def test_floor_without_a_temperature(batch):
    """The best there is: right pairs at cosine 1, others at -1/(n-1). At 128 it is 3.858, chance ln 128."""
    images = F.normalize(torch.eye(batch, dtype=torch.float64) - 1 / batch, dim=-1)
    floor = math.log(1 + (batch - 1) * math.exp(-batch / (batch - 1)))
    loss = softmax_contrastive_loss(images, images, ONE)
    assert loss.item() == pytest.approx(floor, abs=1e-5)
    if batch == 128:
        assert round(floor, 3) == 3.858
        assert round(math.log(batch), 3) == 4.852
    # CLIP's temperature at its limit takes the same embeddings to nothing.
    assert softmax_contrastive_loss(images, images, torch.tensor(100.0)).item() < 1e-6


def test_floor_cannot_be_passed_without_a_temperature():
    """Trained directly on the embeddings, the loss comes down to the floor and no further."""
    images, texts = (torch.nn.Parameter(x) for x in random_pairs(8, 0, dim=16))
    optimizer = torch.optim.Adam([images, texts], lr=0.05)
    for _ in range(300):
        loss = softmax_contrastive_loss(F.normalize(images, dim=-1), F.normalize(texts, dim=-1), ONE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    floor = math.log(1 + 7 * math.exp(-8 / 7))
    assert floor - 1e-5 < loss.item() < floor + 1e-3


@settings(max_examples=40, deadline=None)
@given(
    ids=st.lists(st.integers(0, 4), min_size=1, max_size=7),
    scale=st.floats(0.1, 100),
    bias=st.floats(-15, 5),
    seed=st.integers(0, 1000),
    with_ids=st.booleans(),
)
def test_against_brute_force(ids, scale, bias, seed, with_ids):
    images, texts = random_pairs(len(ids), seed)
    known = ids if with_ids else None
    tensor_ids = torch.tensor(ids) if with_ids else None
    scale, bias = torch.tensor(scale), torch.tensor(bias)
    softmax = softmax_contrastive_loss(images, texts, scale, tensor_ids).item()
    assert softmax == pytest.approx(softmax_brute_force(images, texts, scale, known), rel=1e-4, abs=2e-5)
    sigmoid = sigmoid_contrastive_loss(images, texts, scale, bias, tensor_ids).item()
    assert sigmoid == pytest.approx(
        sigmoid_brute_force(images, texts, scale, bias, known), rel=1e-4, abs=2e-5
    )


@settings(max_examples=20, deadline=None)
@given(ids=st.lists(st.integers(0, 3), min_size=4, max_size=4), seed=st.integers(0, 100))
def test_blocks_of_a_batch_average_to_the_whole(ids, seed):
    """Each process computes its own rows against everybody's; the mean over processes is the one loss."""
    images, texts = random_pairs(4, seed)
    ids = torch.tensor(ids)
    scale, bias = torch.tensor(5.0), torch.tensor(-2.0)
    blocks = []
    for offset in (0, 2):
        rows = slice(offset, offset + 2)
        everybody = {"all_text_embeds": texts, "all_image_ids": ids, "offset": offset}
        softmax = softmax_contrastive_loss(
            images[rows], texts[rows], scale, ids[rows], all_image_embeds=images, **everybody
        )
        sigmoid = sigmoid_contrastive_loss(images[rows], texts[rows], scale, bias, ids[rows], **everybody)
        blocks.append((softmax.item(), sigmoid.item()))
    softmax, sigmoid = (sum(pair) / 2 for pair in zip(*blocks, strict=True))
    assert softmax == pytest.approx(softmax_contrastive_loss(images, texts, scale, ids).item(), rel=1e-5)
    assert sigmoid == pytest.approx(
        sigmoid_contrastive_loss(images, texts, scale, bias, ids).item(), rel=1e-5
    )


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_captions_of_one_image_are_no_negatives(loss_type):
    """Two captions of one image, both right: told so, the model sees nothing to improve between them."""
    model = tiny_model(loss_type=loss_type, logit_bias_init_value=0.0)
    feature, caption = torch.randn(1, 32), torch.randn(1, 32)
    inputs = {
        "image_features": feature.repeat(2, 1),
        "text_features": caption.repeat(2, 1),
        "return_loss": True,
    }
    told = model(**inputs, image_ids=torch.tensor([7, 7])).loss
    untold = model(**inputs).loss
    alone = model(image_features=feature, text_features=caption, return_loss=True).loss
    assert told.item() == pytest.approx(alone.item(), abs=1e-6)
    assert untold.item() > told.item() + 0.1


def test_distinct_ids_change_nothing():
    model = tiny_model()
    inputs = {"image_features": torch.randn(5, 32), "text_features": torch.randn(5, 32), "return_loss": True}
    assert torch.equal(model(**inputs).loss, model(**inputs, image_ids=torch.arange(5)).loss)


def test_loss_is_exact_under_autocast():
    """bf16 keeps 8 bits, and logits reach 100: the loss is computed in float32 all the same."""
    images, texts = random_pairs(16, 0)
    scale = torch.tensor(100.0)
    with torch.autocast("cpu", torch.bfloat16):
        under = softmax_contrastive_loss(images, texts, scale)
    assert under.dtype == torch.float32
    assert torch.equal(under, softmax_contrastive_loss(images, texts, scale))


def test_gradients_against_numbers():
    """Against finite differences of the float64 brute force."""
    images, texts = (x.requires_grad_() for x in random_pairs(3, 1))
    scale = torch.tensor(4.0, requires_grad=True)
    softmax_contrastive_loss(images, texts, scale, torch.tensor([0, 0, 1])).backward()
    step = 1e-4
    for tensor in (images, texts, scale):
        flat = tensor.detach().double().clone().flatten()
        for k in range(0, flat.numel(), 3):
            values = []
            for sign in (1, -1):
                moved = flat.clone()
                moved[k] += sign * step
                given = [
                    moved.view(tensor.shape) if x is tensor else x.detach() for x in (images, texts, scale)
                ]
                values.append(softmax_brute_force(*given, [0, 0, 1]))
            expected = (values[0] - values[1]) / (2 * step)
            assert tensor.grad.flatten()[k].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("loss_type", ["softmax", "sigmoid"])
def test_the_nested_loss_is_the_mean_over_cut_embeddings(loss_type):
    ids, widths = [0, 1, 1, 2, 3], [2, 16, 5]
    model = tiny_model(loss_type=loss_type, matryoshka_dims=widths[:1] + widths[2:])
    images, texts = random_pairs(len(ids), seed=5, dim=16)
    scale = model.inverse_temperature().detach()
    found = model.contrastive_loss(images, texts, scale, torch.tensor(ids)).item()
    halves = [(F.normalize(images[:, :w], dim=-1), F.normalize(texts[:, :w], dim=-1)) for w in widths]
    if loss_type == "softmax":
        losses = [softmax_brute_force(*half, scale, ids) for half in halves]
    else:
        losses = [sigmoid_brute_force(*half, scale, model.logit_bias.item(), ids) for half in halves]
    assert found == pytest.approx(sum(losses) / 3, abs=1e-5)
    # Images with several texts, and a second process's rows, are cut too.
    options = {"text_image_ids": torch.tensor(ids), "all_image_embeds": images, "all_text_embeds": texts}
    options |= {"all_image_ids": torch.tensor(ids), "all_text_image_ids": torch.tensor(ids)}
    gathered = model.contrastive_loss(images, texts, scale, torch.tensor(ids), **options)
    alone = model.contrastive_loss(images, texts, scale, torch.tensor(ids), torch.tensor(ids))
    assert gathered.item() == pytest.approx(alone.item(), abs=1e-5)

"""Pins: features standardised in front of a head give what a head gives that has it folded into its matrix; the
statistics travel with a checkpoint and are no parameters; features are dropped in training alone; which layers
and poolings "auto" picks for every kind of tower; wrong values are said."""

import pytest
import torch
import transformers as tr
from tiny import tiny_model, tiny_text_tower, tiny_vision_tower

from hf_customclip import CustomClipModel
from hf_customclip.modeling.heads_custom_clip import build_projection
from hf_customclip.modeling.pooling_custom_clip import auto_feature_layers

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[2, 40, 41, 3], [2, 42, 3, 0]])
MASK = (IDS > 0).long()


def with_statistics(head, seed=0):
    generator = torch.Generator().manual_seed(seed)
    head.input.mean.copy_(torch.randn(head.input.mean.shape, generator=generator))
    head.input.scale.copy_(torch.rand(head.input.scale.shape, generator=generator) + 0.5)
    return head


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_folded_or_not_embeddings_are_equal(kind):
    torch.manual_seed(0)
    head = with_statistics(build_projection(kind, 12, 8, 0.0, standardize=True)).eval()
    first = head if kind == "linear" else head.linear1
    folded = torch.nn.Linear(12, 8)
    with torch.no_grad():
        folded.weight.copy_(first.weight * head.input.scale)
        folded.bias.copy_(-(folded.weight @ head.input.mean))
        features = torch.randn(5, 12)
        inner = folded(features)
        if kind == "mlp":
            inner = head.layer_norm(inner + head.linear2(torch.nn.functional.gelu(inner)))
        torch.testing.assert_close(head(features), inner)


def test_statistics_travel_and_are_no_parameters(tmp_path):
    model = tiny_model(standardize_features=True, feature_dropout=0.5)
    plain = tiny_model()
    assert model.num_parameters(only_trainable=True) == plain.num_parameters(only_trainable=True)
    inputs = {"pixel_values": PIXELS, "input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        # Not set yet, they change nothing.
        assert torch.equal(model(**inputs).logits_per_image, plain(**inputs).logits_per_image)
        with_statistics(model.visual_projection)
        with_statistics(model.text_projection, seed=1)
        model.save_pretrained(tmp_path)
        again = tr.AutoModel.from_pretrained(tmp_path).eval()
        assert torch.equal(model(**inputs).logits_per_image, again(**inputs).logits_per_image)
        assert not torch.equal(model(**inputs).logits_per_image, plain(**inputs).logits_per_image)
    assert torch.equal(again.visual_projection.input.mean, model.visual_projection.input.mean)


def test_features_are_dropped_in_training_alone():
    head = build_projection("linear", 1000, 4, 0.0, feature_dropout=0.5)
    features = torch.ones(1, 1000)
    torch.manual_seed(0)
    dropped = head.train().input(features)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert 400 < int((dropped == 0).sum()) < 600
    assert torch.equal(head.eval().input(features), features)


@pytest.mark.parametrize(
    ("shapes", "pooling", "expected"),
    [
        ([(1, 16, 8, 8)] * 5, "pooler", [2, 3, 4]),  # EfficientNet's five maps
        ([(1, 16, 8, 8)] * 2, "pooler", [0, 1]),
        ([(1, 9, 32)] * 13, "cls", [0, 4, 8, 12]),  # 12 layers
        ([(1, 9, 32)] * 7, "mean", [0, 2, 4]),  # 6 layers, the last averaged already
        ([(1, 9, 32)] * 3, "mean", [0, 1]),
        ([], "pooler", []),  # a tower without hidden states
    ],
)
def test_layers_by_rule(shapes, pooling, expected):
    assert auto_feature_layers(shapes, pooling) == expected


AUTO = dict.fromkeys(
    [f"{tower}_feature_{kind}" for tower in ("vision", "text") for kind in ("layers", "poolings")], "auto"
)


@pytest.mark.parametrize("vision", ["torchvision", "vit", "resnet", "timm", "dinov2"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_auto_works_for_every_tower(tmp_path, vision, pooling):
    towers = tiny_vision_tower(vision, tmp_path / "vision"), tiny_text_tower("bert", tmp_path / "text")
    model = CustomClipModel.from_vision_text_pretrained(
        *towers, projection_dim=16, text_pooling=pooling, **AUTO
    ).eval()
    side = 64 if vision == "torchvision" else 32
    pixels = torch.nn.functional.interpolate(PIXELS, (side, side))
    with torch.no_grad():
        assert model.pool_image(pixels).shape == (2, model.config.vision_embed_dim)
        assert model.pool_text(IDS, MASK).shape == (2, model.text_embed_dim)
    # Resolved, so that a checkpoint does not depend on the rule.
    assert isinstance(model.config.vision_feature_layers, list)
    assert model.config.text_feature_poolings == (["max"] if pooling == "cls" else ["max", "cls"])


def test_the_maximum_leaves_padding_out():
    model = tiny_model(text_feature_poolings=["max"], text_pooling="mean")
    with torch.no_grad():
        padded = model.pool_text(IDS, MASK)[1]
        alone = model.pool_text(IDS[1:, :3], MASK[1:, :3])[0]
        hidden = model.text_model(IDS[1:, :3], MASK[1:, :3], output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(padded, alone)
    highest = hidden[0].max(0).values
    torch.testing.assert_close(padded[32:], highest / highest.norm())


def test_wrong_values():
    with pytest.raises(ValueError, match=r"feature_dropout must be in \[0, 1\), got 1"):
        tiny_model(feature_dropout=1)
    with pytest.raises(ValueError, match="text_feature_layers must be a list or 'auto', got 'all'"):
        tiny_model(text_feature_layers="all")
    with pytest.raises(ValueError, match="vision_feature_poolings must be one of 'max', 'cls', got 'min'"):
        tiny_model(vision_feature_poolings=["min"])

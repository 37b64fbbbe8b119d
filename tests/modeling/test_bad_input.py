"""Pins: wrong input is refused in a sentence that names what was wrong and what is allowed."""

import re

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    CLIPTextConfig,
    GPT2Config,
    ViTConfig,
    ViTMAEConfig,
)

from hf_customclip import CustomClipConfig, CustomClipModel, CustomClipProcessor, TorchvisionBackboneConfig

PIXELS, TOKENS = torch.randn(2, 3, 32, 32), torch.full((2, 4), 60)


def raises(*words, error=ValueError):
    """All of `words` in the message, in this order."""
    return pytest.raises(error, match="(?s)" + ".*".join(re.escape(word) for word in words))


# ---- Towers ----


def test_unknown_image_tower_with_near_matches(tmp_path):
    text = tiny_text_tower("distilbert", tmp_path)
    for make in (CustomClipModel, CustomClipProcessor):
        with raises("No vision tower 'resnet43'", "torchvision name", "AutoModel can load", "resnet34"):
            make.from_vision_text_pretrained("resnet43", text)


def test_unknown_text_tower():
    with raises("No text tower 'distilbert-bse-uncased'", "AutoModel can load"):
        CustomClipModel.from_vision_text_pretrained(
            "squeezenet1_1", "distilbert-bse-uncased", vision_weights=None
        )


def test_unknown_torchvision_architecture():
    with raises("no model named 'resnet43'", "Did you mean", "resnet34"):
        CustomClipModel(CustomClipConfig(vision_config=TorchvisionBackboneConfig(architecture="resnet43")))
    with raises("no model named 'qqqq'", "Known", "alexnet", "wide_resnet50_2"):
        CustomClipModel(CustomClipConfig(vision_config=TorchvisionBackboneConfig(architecture="qqqq")))


def test_unknown_weights(tmp_path):
    towers = "squeezenet1_1", tiny_text_tower("distilbert", tmp_path)
    with raises("no weights 'IMAGENET1K_V9' for squeezenet1_1", "IMAGENET1K_V1"):
        CustomClipModel.from_vision_text_pretrained(*towers, vision_weights="IMAGENET1K_V9")
    with raises("no weights 'IMAGENET1K_V9' for squeezenet1_1", "IMAGENET1K_V1"):
        CustomClipProcessor.from_vision_text_pretrained(*towers, vision_weights="IMAGENET1K_V9")
    with raises("text_weights='V1' names torchvision weights", "no torchvision net"):
        CustomClipModel.from_vision_text_pretrained(*towers, vision_weights=None, text_weights="V1")


def test_towers_the_wrong_way_round(tmp_path):
    vision, text = tiny_vision_tower("vit", tmp_path / "v"), tiny_text_tower("bert", tmp_path / "t")
    with raises("is no vision tower", "BertModel takes input_ids, not pixel_values"):
        CustomClipModel.from_vision_text_pretrained(text, vision)
    with raises("is no text tower", "ViTModel takes pixel_values, not input_ids"):
        CustomClipModel.from_vision_text_pretrained(vision, vision)


def test_encoder_decoder_without_an_encoder_class(tmp_path):
    BartConfig().save_pretrained(tmp_path / "bart")
    with raises("must be an encoder", "'bart'"):
        CustomClipModel.from_vision_text_pretrained(
            "squeezenet1_1", str(tmp_path / "bart"), vision_weights=None, text_weights=None
        )


def small(config_class, **options):
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return config_class(**sizes, **options)


def test_image_tower_without_a_pooled_output():
    text = small(BertConfig, vocab_size=99)
    mae = small(ViTMAEConfig, image_size=32, patch_size=8)
    with raises("ViTMAEModel gives no pooler_output", "'cls' or 'mean'"):
        CustomClipModel(CustomClipConfig.from_vision_text_configs(mae, text))
    mean = CustomClipModel(CustomClipConfig.from_vision_text_configs(mae, text, vision_pooling="mean"))
    assert mean.config.vision_embed_dim == 32


def test_feature_map_has_no_first_position(tmp_path):
    towers = tiny_vision_tower("resnet", tmp_path / "v"), tiny_text_tower("bert", tmp_path / "t")
    with raises("ResNetModel gives a feature map", "(1, 24, ", "'pooler' or 'mean'"):
        CustomClipModel.from_vision_text_pretrained(*towers, vision_pooling="cls")
    assert (
        CustomClipModel.from_vision_text_pretrained(*towers, vision_pooling="mean").config.vision_embed_dim
        == 24
    )


def test_missing_poolers_are_not_taken_at_random(tmp_path):
    """A checkpoint of a language model holds no pooler; transformers would make a random one."""
    text, vision = tmp_path / "text", tmp_path / "vision"
    AutoModel.from_config(small(BertConfig, vocab_size=99), add_pooling_layer=False).save_pretrained(text)
    AutoModel.from_config(
        small(ViTConfig, image_size=32, patch_size=8), add_pooling_layer=False
    ).save_pretrained(vision)
    with raises("holds no pooler", "'cls' or 'mean'"):
        CustomClipModel.from_vision_text_pretrained(vision, text, text_pooling="pooler")
    assert CustomClipModel.from_vision_text_pretrained(vision, text).config.vision_pooling == "cls"


def test_first_position_of_a_causal_tower(tmp_path):
    """It sees no other token: every text would get the same embedding."""
    clip = small(CLIPTextConfig, vocab_size=99, max_position_embeddings=32)
    gpt = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99, n_positions=32)
    for config, better in ((clip, "pooler"), (gpt, "mean")):
        folder = tmp_path / better
        AutoModel.from_config(config).save_pretrained(folder)
        towers = {"vision": "squeezenet1_1", "text": folder, "vision_weights": None}
        with raises("text_pooling='cls' is of no use", "sees no other token", f"choose {better!r}"):
            CustomClipModel.from_vision_text_pretrained(**towers, text_pooling="cls")
        assert CustomClipModel.from_vision_text_pretrained(**towers).config.text_pooling == better


# ---- Configuration ----


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("projection_type", "conv", "'mlp', 'linear'"),
        ("text_pooling", "max", "'cls', 'mean', 'pooler'"),
        ("vision_pooling", "max", "'pooler', 'cls', 'mean'"),
        ("loss_type", "triplet", "'softmax', 'sigmoid'"),
        ("projection_dim", 0, "at least 1"),
        ("projection_dim", "abc", "whole number"),
        ("max_text_length", 2.5, "whole number"),
        ("projection_dropout", 1.5, "[0, 1)"),
    ],
)
def test_configuration_values(field, value, allowed):
    with raises(field, allowed, str(value)):
        CustomClipConfig(**{field: value})


def test_unknown_field_with_near_matches(tmp_path):
    with raises("no field 'projection_dimension'", "projection_dim"):
        CustomClipModel.from_vision_text_pretrained(
            "squeezenet1_1", tiny_text_tower("bert", tmp_path), vision_weights=None, projection_dimension=8
        )


# ---- Forward ----


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (PIXELS[0], ["(batch, 3, height, width)", "(3, 32, 32)"]),
        (PIXELS.permute(0, 2, 3, 1), ["(batch, 3, height, width)", "(2, 32, 32, 3)"]),
        (PIXELS[:, :1], ["(batch, 3, height, width)", "(2, 1, 32, 32)"]),
        (PIXELS.to(torch.uint8), ["floating-point", "torch.uint8"]),
        (torch.randn(2, 3, 48, 48), ["48", "32"]),
    ],
    ids=["one image", "channels last", "grey", "integers", "wrong size"],
)
def test_pixels(pixels, words):
    for call in (
        tiny_model().get_image_features,
        lambda pixel_values: tiny_model()(pixel_values=pixel_values),
    ):
        with raises(*words):
            call(pixel_values=pixels)


def test_tokens():
    with raises("input_ids must have the shape (batch, length)", "(4,)"):
        tiny_model()(input_ids=TOKENS[0])


@pytest.mark.parametrize("kind", ["distilbert", "bert", "xlm_roberta", "clip"])
def test_text_longer_than_the_tower_takes(kind, tmp_path):
    """Its own message would be an index error. RoBERTa counts from the padding index on: 62 of 64."""
    model = CustomClipModel.from_vision_text_pretrained(
        "squeezenet1_1", tiny_text_tower(kind, tmp_path), vision_weights=None
    )
    limit = 62 if kind == "xlm_roberta" else 64
    assert model.get_text_features(torch.full((1, limit), 5)).pooler_output.shape == (1, 512)
    with raises(f"a text has {limit + 1} tokens", f"at most {limit}", "max_length=32"):
        model.get_text_features(torch.full((1, limit + 1), 5))


def test_relative_positions_have_no_limit(tmp_path):
    model = CustomClipModel.from_vision_text_pretrained(
        "squeezenet1_1", tiny_text_tower("t5", tmp_path), vision_weights=None
    )
    assert model.get_text_features(torch.full((1, 600), 5)).pooler_output.shape == (1, 512)


def test_over_long_label_in_the_pipeline():
    """It never truncates by itself: the sentence says what to do."""
    from transformers import pipeline

    processor = tiny_processor()
    task = pipeline(
        "zero-shot-image-classification",
        model=tiny_model(), tokenizer=processor.tokenizer, image_processor=processor.image_processor,
    )  # fmt: skip
    with raises("a text has", "at most 64"):
        task(tiny_dataset(1)["image"][0], candidate_labels=["word " * 80, "cat"])


def test_batch_sizes():
    model = tiny_model()
    assert model(pixel_values=PIXELS, input_ids=TOKENS[:1]).logits_per_image.shape == (2, 1)
    with raises("return_loss=True", "a pair", "2 images", "1 texts"):
        model(pixel_values=PIXELS, input_ids=TOKENS[:1], return_loss=True)
    with raises("got 3 image_ids for 2 images"):
        model(pixel_values=PIXELS, input_ids=TOKENS, image_ids=torch.arange(3), return_loss=True)
    with raises("needs both images and texts"):
        model(pixel_values=PIXELS, return_loss=True)
    with raises("nothing to embed", "pixel_values or image_features, input_ids or text_features"):
        model()


@pytest.mark.parametrize("shape", [(2, 31), (32,), (2, 32, 1)])
def test_cached_features_of_another_width(shape):
    with raises("image_features must have the shape (batch, 32)", str(shape)):
        tiny_model()(image_features=torch.zeros(shape))
    with raises("text_features must have the shape (batch, 32)", str(shape)):
        tiny_model()(text_features=torch.zeros(shape))

"""Pins: what comes out of a forward pass and how it hangs together, the tutorial's head and temperature,
pooling that respects the attention mask, half precision, and the `get_*_features` of transformers 5; that
`device_map="auto"` splits no residual block."""

import math

import pytest
import torch
import torch.nn.functional as F
from accelerate import infer_auto_device_map
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower
from torch import nn
from transformers import DistilBertConfig

from hf_customclip import CustomClipConfig, CustomClipModel, TorchvisionBackboneConfig


@pytest.fixture(scope="module")
def inputs():
    data = tiny_dataset(4)
    text = [captions[i % 2] for i, captions in enumerate(data["captions"])]
    return tiny_processor()(images=list(data["image"]), text=text, return_tensors="pt")


# ---- Heads ----


def test_tutorial_head_against_a_plain_implementation():
    """e1 = W1 x; e2 = dropout(W2 gelu(e1)); LayerNorm(e1 + e2); with gelu, norm and dropout written out."""
    head = tiny_model(projection_dropout=0.25).visual_projection
    with torch.no_grad():
        head.layer_norm.weight.uniform_(0.5, 2)
        head.layer_norm.bias.normal_()
    x = torch.randn(5, 32)

    def plain(kept):
        e1 = x.double() @ head.linear1.weight.double().T
        gelu = e1 * 0.5 * (1 + torch.erf(e1 / math.sqrt(2)))
        total = e1 + kept * (gelu @ head.linear2.weight.double().T)
        centred = total - total.mean(-1, keepdim=True)
        normed = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return normed * head.layer_norm.weight.double() + head.layer_norm.bias.double()

    torch.testing.assert_close(head.eval()(x).double(), plain(1), rtol=1e-5, atol=1e-5)
    torch.manual_seed(1)
    kept = F.dropout(torch.ones(5, 16), 0.25)
    torch.manual_seed(1)
    torch.testing.assert_close(head.train()(x).double(), plain(kept.double()), rtol=1e-5, atol=1e-5)


def test_default_recipe_trains_1181696_parameters_and_a_temperature():
    text = DistilBertConfig(n_layers=1, vocab_size=100)
    vision = TorchvisionBackboneConfig(architecture="resnet34")
    with torch.device("meta"):
        model = CustomClipModel(CustomClipConfig.from_vision_text_configs(vision, text))
    assert (model.config.vision_embed_dim, model.config.text_config.hidden_size) == (512, 768)
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    assert trained.pop("logit_scale") == 1
    assert {name.split(".")[0] for name in trained} == {"visual_projection", "text_projection"}
    assert sum(trained.values()) == 1_181_696
    assert model.visual_projection.dropout.p == 0.5


def test_linear_head(inputs):
    model = tiny_model(projection_type="linear")
    assert isinstance(model.visual_projection, nn.Linear) and model.visual_projection.bias is None
    expected = model.pool_image(inputs["pixel_values"]) @ model.visual_projection.weight.T
    torch.testing.assert_close(model.get_image_features(inputs["pixel_values"]).pooler_output, expected)


def test_heads_start_as_torchs_linear_layers_do():
    """Uniform in ±1/√width, the tutorial's start, not transformers' normal of 0.02."""
    for head, width in (
        (tiny_model().visual_projection.linear1, 32),
        (tiny_model().text_projection.linear2, 16),
    ):
        bound = 1 / math.sqrt(width)
        assert head.weight.abs().max() <= bound
        assert head.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


# ---- Outputs ----


@torch.no_grad()
def test_outputs_hang_together(inputs):
    model = tiny_model()
    out = model(**inputs)
    images, texts = out.image_embeds, out.text_embeds
    assert images.shape == texts.shape == (4, 16) and images.dtype == torch.float32
    torch.testing.assert_close(images.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(texts.norm(dim=-1), torch.ones(4))
    torch.testing.assert_close(out.logits_per_image, images @ texts.T / 0.07, rtol=1e-4, atol=1e-4)
    assert torch.equal(out.logits_per_text, out.logits_per_image.T)
    assert out.loss is None
    assert out.logit_scale.item() == pytest.approx(1 / 0.07, rel=1e-4)

    image_features = model.get_image_features(inputs["pixel_values"])
    text_features = model.get_text_features(inputs["input_ids"], inputs["attention_mask"])
    torch.testing.assert_close(F.normalize(image_features.pooler_output, dim=-1), images)
    torch.testing.assert_close(F.normalize(text_features.pooler_output, dim=-1), texts)
    assert (image_features.pooler_output.norm(dim=-1) - 1).abs().min() > 0.1, (
        "the embeddings are not normalised"
    )
    as_tuple = model.get_text_features(inputs["input_ids"], inputs["attention_mask"], return_dict=False)
    assert isinstance(as_tuple, tuple) and torch.equal(as_tuple[1], text_features.pooler_output)


@torch.no_grad()
def test_either_side_alone(inputs):
    model = tiny_model()
    both = model(**inputs)
    only_text = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    only_images = model(pixel_values=inputs["pixel_values"])
    assert torch.equal(only_text.text_embeds, both.text_embeds) and only_text.image_embeds is None
    assert torch.equal(only_images.image_embeds, both.image_embeds) and only_images.logits_per_image is None


@torch.no_grad()
def test_cached_features_give_the_same(inputs):
    """`pool_image` and `pool_text`, given instead of pixels and tokens."""
    model = tiny_model()
    image_features = model.pool_image(inputs["pixel_values"])
    text_features = model.pool_text(inputs["input_ids"], inputs["attention_mask"])
    kept = model(image_features=image_features, text_features=text_features, return_loss=True)
    direct = model(**inputs, return_loss=True)
    assert torch.equal(kept.logits_per_image, direct.logits_per_image)
    assert torch.equal(kept.loss, direct.loss)
    assert kept.vision_model_output is None and direct.vision_model_output is not None


@torch.no_grad()
def test_token_type_ids_are_taken_and_dropped(inputs):
    """AutoTokenizer may give a DistilBERT folder a BertTokenizer, which sends them."""
    extra = {"token_type_ids": torch.zeros_like(inputs["input_ids"])}
    model = tiny_model()
    assert torch.equal(model(**inputs, **extra).logits_per_image, model(**inputs).logits_per_image)


# ---- Temperature ----


@pytest.mark.parametrize("start", [math.log(100), 6.0])
def test_temperature_is_clamped_and_not_stuck(start):
    """At the limit the parameter is held there, and comes down again as soon as the loss asks for it."""
    model = tiny_model(logit_scale_init_value=start).train()
    optimizer = torch.optim.SGD([model.logit_scale], lr=0.01)
    wrong = {"image_features": torch.randn(4, 32), "text_features": torch.randn(4, 32), "return_loss": True}
    out = model(**wrong)
    assert out.logit_scale.item() == pytest.approx(100, rel=1e-5)
    assert model.logit_scale.item() <= math.log(100) + 1e-6
    out.loss.backward()
    assert model.logit_scale.grad.item() > 0, "random pairs ask for a softer temperature"
    optimizer.step()
    assert model.logit_scale.item() < math.log(100) - 1e-3


def test_no_temperature_at_all():
    """The tutorial's: logits are the cosines themselves, and nothing learns to scale them."""
    model = tiny_model(logit_scale_init_value=0.0, learn_logit_scale=False).train()
    out = model(image_features=torch.randn(3, 32), text_features=torch.randn(3, 32), return_loss=True)
    out.loss.backward()
    assert out.logit_scale.item() == 1 and out.logits_per_image.abs().max() <= 1
    assert model.logit_scale.grad is None and not model.logit_scale.requires_grad


def test_sigmoid_starts_where_siglip_does():
    model = tiny_model(loss_type="sigmoid")
    assert model.logit_scale.exp().item() == pytest.approx(10) and model.logit_bias.item() == -10
    assert tiny_model(loss_type="sigmoid", logit_scale_init_value=1.0).logit_scale.item() == 1
    assert not hasattr(tiny_model(), "logit_bias")


# ---- Pooling ----


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@torch.no_grad()
def test_padding_changes_nothing(pooling):
    model = tiny_model(text_pooling=pooling)
    tokens, mask = torch.tensor([[2, 60, 61, 3]]), torch.ones(1, 4, dtype=torch.long)
    padded, padded_mask = F.pad(tokens, (0, 5)), F.pad(mask, (0, 5))
    short, long = model.pool_text(tokens, mask), model.pool_text(padded, padded_mask)
    torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(long, model.pool_text(padded), atol=1e-3), "without the mask it would"


@torch.no_grad()
def test_mean_is_the_mean_over_the_mask():
    model = tiny_model(text_pooling="mean")
    tokens, mask = torch.tensor([[2, 60, 61, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 0, 0]])
    hidden = model.text_model(input_ids=tokens, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(model.pool_text(tokens, mask), hidden[:, :4].mean(1))
    assert torch.isfinite(model.pool_text(tokens, torch.zeros_like(mask))).all()


@torch.no_grad()
def test_vision_poolings(inputs):
    hidden = tiny_model().vision_model(inputs["pixel_values"])
    for pooling, expected in (
        ("pooler", hidden.pooler_output),
        ("cls", hidden.last_hidden_state[:, 0]),
        ("mean", hidden.last_hidden_state.mean(1)),
    ):
        assert torch.equal(tiny_model(vision_pooling=pooling).pool_image(inputs["pixel_values"]), expected)


def test_pooler_needs_one(tmp_path):
    """BERT has a pooler; DistilBERT has none, and says so."""
    from hf_customclip.modeling.towers_custom_clip import load_text_tower

    bert = load_text_tower(tiny_text_tower("bert", tmp_path))
    tokens = torch.tensor([[2, 60, 3]])
    model = tiny_model()
    bert_model = CustomClipModel(
        CustomClipConfig.from_vision_text_configs(
            model.config.vision_config, bert.config, text_pooling="pooler"
        ),
        text_model=bert,
    ).eval()
    assert torch.equal(bert_model.pool_text(tokens), bert.eval()(tokens).pooler_output)
    with pytest.raises(ValueError, match=r"DistilBertModel gives no pooler_output.*'cls' or 'mean'"):
        tiny_model(text_pooling="pooler").pool_text(tokens)


# ---- Half precision ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_zero_vector_gives_no_nan(dtype):
    """The eps of F.normalize is 0 in fp16."""
    model = tiny_model(projection_type="linear").to(dtype)
    out = model(
        image_features=torch.zeros(2, 32, dtype=dtype), text_features=torch.zeros(2, 32), return_loss=True
    )
    for value in (out.image_embeds, out.logits_per_image, out.loss):
        assert torch.isfinite(value).all()


@torch.no_grad()
def test_pixels_and_features_are_cast(inputs):
    """A processor gives float32, whatever the model was loaded in; a tower may be in half below its head."""
    model, expected = tiny_model(), tiny_model()(**inputs)
    model.vision_model.to(torch.bfloat16)
    mixed = model(**inputs)
    assert model.get_image_features(inputs["pixel_values"]).pooler_output.dtype == torch.float32
    whole = model.to(torch.bfloat16)(**inputs)
    for out in (mixed, whole):
        assert out.image_embeds.dtype == torch.float32
        torch.testing.assert_close(out.image_embeds, expected.image_embeds, rtol=0.1, atol=0.05)


# ---- More ----


def test_more_tokens_can_be_added():
    model = tiny_model()
    before = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(before + 3)
    assert model.config.text_config.vocab_size == model.text_model.config.vocab_size == before + 3
    assert model.get_text_features(torch.tensor([[2, before + 2, 3]])).pooler_output.shape == (1, 16)


@pytest.mark.parametrize("vision", ["vit", "torchvision", "timm"])
def test_an_automatic_device_map_splits_no_residual_block(vision, tmp_path):
    """As `device_map="auto"` deals the model out over devices too small for it; the sizes alone are needed."""
    towers = tiny_vision_tower(vision, tmp_path / "v"), tiny_text_tower("bert", tmp_path / "t")
    model = CustomClipModel.from_vision_text_pretrained(*towers, projection_dim=16)
    kept = model._no_split_modules
    assert {"MlpProjection", "BertLayer"} <= set(kept)
    together = [name for name, module in model.named_modules() if type(module).__name__ in kept]
    assert len(together) >= 4
    size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    devices = infer_auto_device_map(
        model,
        max_memory={number: size // 3 for number in range(3)} | {"cpu": size},
        no_split_module_classes=kept,
    )
    assert len(set(devices.values())) > 1
    assert not [part for part in devices for name in together if part.startswith(f"{name}.")]


def test_same_seed_same_model():
    first, second = tiny_model().state_dict(), tiny_model().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)

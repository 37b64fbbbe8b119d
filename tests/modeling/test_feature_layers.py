"""Pins: layers numbered or named in the configuration are averaged over positions, padding left out, and laid beside
the pooled output, each part of unit length, for transformers', timm's and torchvision's towers; the model saves and
loads bit for bit, trains on cached features, and says what a tower does not have. An image's feature may be averaged
with its mirror image's."""

import pytest
import torch
import transformers as tr
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower

from hf_customclip import (
    CustomClipModel,
    CustomClipTrainer,
    CustomClipTrainingArguments,
    TorchvisionBackboneModel,
)
from hf_customclip.modeling.layers_custom_clip import vision_layers
from hf_customclip.modeling.pooling_custom_clip import auto_feature_layers

PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[2, 40, 41, 3], [2, 42, 3, 0]])
MASK = (IDS > 0).long()


def built(tmp_path, vision, text="distilbert", **config):
    towers = tiny_vision_tower(vision, tmp_path / "vision"), tiny_text_tower(text, tmp_path / "text")
    return CustomClipModel.from_vision_text_pretrained(*towers, projection_dim=16, **config).eval()


@pytest.mark.parametrize("vision", ["vit", "resnet", "timm"])
def test_layers_are_averaged_and_laid_beside(tmp_path, vision):
    torch.manual_seed(0)
    model = built(tmp_path, vision, vision_feature_layers=[1, -1], text_feature_layers=[0])
    with torch.no_grad():
        outputs = model.vision_model(pixel_values=PIXELS, output_hidden_states=True)
        parts = [outputs.pooler_output.flatten(1)]
        for hidden in (outputs.hidden_states[1], outputs.hidden_states[-1]):
            parts.append(hidden.flatten(2).mean(2) if hidden.dim() == 4 else hidden.mean(1))
        expected = torch.cat([part / part.norm(dim=1, keepdim=True).clamp_min(1e-12) for part in parts], 1)
        torch.testing.assert_close(model.pool_image(PIXELS), expected)
        assert model.config.vision_embed_dim == expected.shape[1]

        outputs = model.text_model(input_ids=IDS, attention_mask=MASK, output_hidden_states=True)
        first = outputs.hidden_states[0]
        means = torch.stack(
            [first[0].mean(0), first[1, :3].mean(0)]
        )  # the second text has one token of padding
        parts = [outputs.last_hidden_state[:, 0], means]
        expected = torch.cat([part / part.norm(dim=1, keepdim=True).clamp_min(1e-12) for part in parts], 1)
        torch.testing.assert_close(model.pool_text(IDS, MASK), expected)


def test_named_layers_are_the_modules_outputs(tmp_path):
    """Of a torchvision net, which has no hidden states: against its layers run one after another."""
    names = ["network.features.4", "network.features.12"]
    model = built(tmp_path, "torchvision", vision_feature_layers=names, vision_feature_poolings=["max"])
    features, pixels = model.vision_model.network.features, torch.nn.functional.interpolate(PIXELS, (64, 64))
    with torch.no_grad():
        first = features[:5](pixels)
        last = features[5:](first)
        parts = [last.mean((2, 3)), first.mean((2, 3)), last.mean((2, 3)), last.amax((2, 3))]
        expected = torch.cat([torch.nn.functional.normalize(part, dim=1) for part in parts], 1)
        torch.testing.assert_close(model.pool_image(pixels), expected)
    assert not any(module._forward_hooks for module in model.modules())


NETS = {
    "resnet18": ["network.layer2.1", "network.layer3.1", "network.layer4.1"],
    "efficientnet_b0": ["network.features.6", "network.features.7", "network.features.8"],
    "convnext_tiny": ["network.features.3", "network.features.5", "network.features.7"],
    "vit_b_32": [f"network.encoder.layers.encoder_layer_{number}" for number in (0, 4, 7, 11)],
}


@pytest.mark.parametrize("net", NETS)
def test_stages_by_rule(net):
    """The last feature map of each shape is a stage's result, of which the last three are taken."""
    tower = TorchvisionBackboneModel.from_torchvision(net, weights=None).eval()
    size = tower.config.image_size
    layers = vision_layers(tower, torch.zeros(1, 3, size, size))
    chosen = auto_feature_layers(list(layers.values()), "pooler")
    assert [list(layers)[number] for number in chosen] == NETS[net]


def test_every_stage_of_a_timm_net():
    """EfficientNet-Lite0 tells five of its seven stages as hidden states; those of 112, 192 and 320 channels help."""
    tower = tr.TimmWrapperModel(
        tr.TimmWrapperConfig(architecture="tf_efficientnet_lite0", num_classes=0)
    ).eval()
    layers = vision_layers(tower, torch.zeros(1, 3, 64, 64))
    assert [shape[1] for shape in layers.values()] == [16, 24, 40, 80, 112, 192, 320]
    assert list(layers)[-1] == "timm_model.blocks.6"


def test_round_trip(tmp_path):
    model = tiny_model(vision_feature_layers=[0], text_feature_layers=[0, 1])
    model.save_pretrained(tmp_path)
    again = tr.AutoModel.from_pretrained(tmp_path).eval()
    assert again.config.text_feature_layers == [0, 1]
    inputs = {"pixel_values": PIXELS, "input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        one, other = model(**inputs), again(**inputs)
    assert torch.equal(one.logits_per_image, other.logits_per_image)


def test_an_image_and_its_mirror_image_averaged(tmp_path):
    plain, averaged = (
        tiny_model(vision_feature_layers=[0], average_mirrored=mirrored) for mirrored in (False, True)
    )
    with torch.no_grad():
        expected = (plain.pool_image(PIXELS) + plain.pool_image(PIXELS.flip(3))) / 2
        torch.testing.assert_close(averaged.pool_image(PIXELS), expected)
        averaged.save_pretrained(tmp_path)
        again = tr.AutoModel.from_pretrained(tmp_path).eval()
        embeds = again(pixel_values=PIXELS).image_embeds
    # By every route, and one embedding for both images.
    torch.testing.assert_close(again(image_features=expected).image_embeds, embeds)
    torch.testing.assert_close(again(pixel_values=PIXELS.flip(3)).image_embeds, embeds)
    features = again.get_image_features(PIXELS).pooler_output
    torch.testing.assert_close(torch.nn.functional.normalize(features, dim=1), embeds)


def test_cached_features_train_the_same(tmp_path):
    weights = []
    for mode in ("never", "always"):
        torch.manual_seed(0)
        model = tiny_model(vision_feature_layers=[1], text_feature_layers=[1])
        args = CustomClipTrainingArguments(
            output_dir=tmp_path / mode, feature_cache=mode, feature_cache_dir=tmp_path / "kept", max_steps=3,
            feature_precision="float32", per_device_train_batch_size=8, use_cpu=True, report_to="none",
            save_strategy="no", disable_tqdm=True, head_init=None, ema_decay=None,
        )  # fmt: skip
        CustomClipTrainer(model, args, None, tiny_dataset(16), processing_class=tiny_processor()).train()
        weights.append(model.visual_projection.state_dict() | model.text_projection.state_dict())
    for name in weights[0]:
        torch.testing.assert_close(weights[0][name], weights[1][name], rtol=1e-4, atol=1e-5)


def test_what_a_tower_does_not_have(tmp_path):
    with pytest.raises(
        ValueError, match=r"TorchvisionBackboneModel gives no hidden states .* 'network.features.1"
    ):
        built(tmp_path, "torchvision", vision_feature_layers=[1])
    with pytest.raises(ValueError, match=r"has no layer 'network.features.13'. .*network.features.12"):
        built(tmp_path, "torchvision", vision_feature_layers=["network.features.13"])
    with pytest.raises(ValueError, match="all numbers or all names"):
        tiny_model(vision_feature_layers=[1, "encoder"])
    with pytest.raises(ValueError, match="gives 3 hidden states, so a feature layer is from 0 to 2, got 7"):
        tiny_model(vision_feature_layers=[7])
    with pytest.raises(ValueError, match="got 9"):
        tiny_model(text_feature_layers=[9]).pool_text(IDS, MASK)

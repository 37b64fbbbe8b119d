"""Pins: hidden states named in the configuration are averaged over positions, padding left out, and laid beside
the pooled output, each part of unit length, for transformers' and timm's towers; the model saves and loads bit
for bit, trains on cached features, and says what a tower does not have."""

import pytest
import torch
import transformers as tr
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower

from hf_customclip import CustomClipModel, CustomClipTrainer, CustomClipTrainingArguments

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


def test_round_trip(tmp_path):
    model = tiny_model(vision_feature_layers=[0], text_feature_layers=[0, 1])
    model.save_pretrained(tmp_path)
    again = tr.AutoModel.from_pretrained(tmp_path).eval()
    assert again.config.text_feature_layers == [0, 1]
    inputs = {"pixel_values": PIXELS, "input_ids": IDS, "attention_mask": MASK}
    with torch.no_grad():
        one, other = model(**inputs), again(**inputs)
    assert torch.equal(one.logits_per_image, other.logits_per_image)


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
    with pytest.raises(ValueError, match="TorchvisionBackboneModel gives no hidden states"):
        built(tmp_path, "torchvision", vision_feature_layers=[1])
    with pytest.raises(ValueError, match="gives 3 hidden states, so a feature layer is from 0 to 2, got 7"):
        tiny_model(vision_feature_layers=[7])
    with pytest.raises(ValueError, match="got 9"):
        tiny_model(text_feature_layers=[9]).pool_text(IDS, MASK)

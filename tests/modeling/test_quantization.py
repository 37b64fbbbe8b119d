"""Pins: a saved model loads with its towers in 8 bits by the real torchao, its heads left as they are, and embeds as in
float32; towers in 8 bits are refused where a model is joined, as they could be neither cached nor saved."""

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor, tiny_text_tower, tiny_vision_tower
from transformers import AutoModel, TorchAoConfig

from hf_customclip import CustomClipModel
from hf_customclip.evaluation.embedded_dataset import embed_dataset

pytest.importorskip("torchao")
from torchao.quantization import Int8WeightOnlyConfig


def test_a_saved_model_loads_with_towers_in_8_bits(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    heads = ["visual_projection", "text_projection"]
    config = TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=heads)
    small = AutoModel.from_pretrained(tmp_path, quantization_config=config)
    for tower in (small.vision_model, small.text_model):
        assert any(type(weight).__name__ == "Int8Tensor" for weight in tower.parameters())
    for head in (small.visual_projection, small.text_projection):
        assert all(type(weight) is torch.nn.Parameter for weight in head.parameters())
    own, others = (embed_dataset(each, tiny_processor(), tiny_dataset(16)) for each in (small, model))
    for name in ("image_embeds", "text_embeds"):
        cosines = torch.cosine_similarity(getattr(own, name), getattr(others, name))
        assert 0.999 < cosines.min() < 1 - 1e-7


def test_towers_in_8_bits_are_not_joined(tmp_path):
    towers = tiny_vision_tower("vit", tmp_path / "vision"), tiny_text_tower("distilbert", tmp_path / "text")
    options = {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    for kwargs in ({"text_kwargs": options}, {"vision_kwargs": options}):
        with pytest.raises(ValueError, match=r"quantization_config.*finished model"):
            CustomClipModel.from_vision_text_pretrained(*towers, **kwargs)

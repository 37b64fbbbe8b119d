"""Pins: `create_model` gives heads by the measured recipe, layers of a torchvision net and the text tower's own pooling
included; what is given wins over it; towers that are trained get plain heads."""

import json

import pytest
from tiny import tiny_text_tower

from hf_customclip import create_model


def made(text, **options):
    return create_model("squeezenet1_1", text, vision_weights=None, projection_dim=16, **options)


def test_the_recipe_where_nothing_is_said(tmp_path, caplog):
    config = made(tiny_text_tower("bert", tmp_path)).config
    assert not config.standardize_features and config.average_mirrored and config.feature_dropout == 0.5
    assert config.vision_feature_layers and config.text_feature_layers == [0, 1]
    assert config.vision_feature_poolings == ["max"] and config.text_feature_poolings == ["max", "cls"]
    assert config.text_pooling == "mean" and "text_pooling='mean'" in caplog.text


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_text_towers_own_pooling_file(tmp_path, pooling):
    text = tiny_text_tower("bert", tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    said = {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"}
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(said))
    assert made(text).config.text_pooling == pooling
    assert made(text, text_pooling="pooler").config.text_pooling == "pooler"


def test_trained_towers_get_plain_heads(tmp_path):
    config = made(tiny_text_tower("bert", tmp_path), freeze_text=False).config
    assert not config.average_mirrored and not config.vision_feature_layers

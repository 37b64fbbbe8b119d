"""Pins: towers are tried once when they are joined; what could not work to the end is refused in a sentence that
says what to do (towers for other images than RGB, texts beyond the positions, texts without a token); decoders embed
texts by every route."""

import pytest
import torch
import transformers as tr
from tiny import tiny_model

from hf_customclip import CustomClipModel

SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
OPTIONS = {"vision_weights": None, "text_weights": None, "projection_dim": 8, "max_text_length": 16}


def join(tmp_path, vision=None, text=None, **options):
    """With tiny towers in the place of those that are not given."""
    vision = tiny_model().vision_model.config if vision is None else vision
    text = tiny_model().text_model.config if text is None else text
    for name, config in (("vision", vision), ("text", text)):
        config.save_pretrained(tmp_path / name)
    return CustomClipModel.from_vision_text_pretrained(
        tmp_path / "vision", tmp_path / "text", **OPTIONS | options
    )


@pytest.mark.parametrize("kind", ["gpt2", "mamba"])
def test_decoders(kind, tmp_path):
    small = {"gpt2": tr.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99, n_positions=16),
             "mamba": tr.MambaConfig(hidden_size=32, num_hidden_layers=1, vocab_size=99, state_size=4)}  # fmt: skip
    model = join(tmp_path, text=small[kind]).eval()
    tokens = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        features = model.get_text_features(tokens, torch.ones_like(tokens)).pooler_output
        embeds = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).text_embeds
    torch.testing.assert_close(torch.nn.functional.normalize(features, dim=-1), embeds)


def test_channels_last_maps(tmp_path):
    """MambaOut's maps are (batch, height, width, channels)."""
    vision = tr.TimmWrapperConfig(architecture="test_mambaout")
    model = join(tmp_path, vision, vision_pooling="mean").eval()
    pixels = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected = model.vision_model(pixels).last_hidden_state.mean((1, 2))
        torch.testing.assert_close(model.pool_image(pixels), expected)


def test_refused(tmp_path):
    for channels in (1, 4):
        with pytest.raises(ValueError, match=rf"{channels} channels.*RGB"):
            join(tmp_path, tr.ViTConfig(**SIZES, image_size=32, patch_size=8, num_channels=channels))
    with pytest.raises(ValueError, match=r"max_text_length=65 .* 64 tokens"):
        join(tmp_path, max_text_length=65)


def test_texts_that_are_too_long_or_empty(tmp_path):
    """A decoder's positions end too; the advice is one that can be followed."""
    gpt = tr.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=99, n_positions=24)
    with pytest.raises(
        ValueError, match=r"max_text_length=32 is more than the 24 tokens.*choose max_text_length=24"
    ):
        join(tmp_path, text=gpt, max_text_length=32)
    model = join(tmp_path, text=gpt)
    for embed in (model, model.get_text_features):
        with pytest.raises(ValueError, match=r"25 tokens.* at most 24.*max_length=16"):
            embed(input_ids=torch.ones(1, 25, dtype=torch.long))
        with pytest.raises(ValueError, match="no tokens"):
            embed(input_ids=torch.ones(1, 0, dtype=torch.long))


def test_masking_is_switched_off(tmp_path):
    vision = tr.ViTMAEConfig(**SIZES, image_size=32, patch_size=8)
    assert join(tmp_path, vision, vision_pooling="cls").config.vision_config.mask_ratio == 0


def test_parameters_without_a_gradient_are_frozen(tmp_path):
    """DistributedDataParallel would wait for them."""
    vision = tr.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    model = join(tmp_path, vision, freeze_vision=False)
    frozen = [name for name, p in model.vision_model.named_parameters() if not p.requires_grad]
    assert frozen == ["embeddings.mask_token"]

"""A tiny CustomClipModel with a DistilBERT and a torchvision tower, and its processor, with random
weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    CLIPImageProcessor,
    DistilBertConfig,
    DistilBertModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTModel,
)

from hf_customclip import CustomClipConfig, CustomClipModel, CustomClipProcessor

WORDS = "this is a photo of . the red green blue cat dog bird house tree in on with small big"

CARD = "---\nlicense: apache-2.0\nlibrary_name: transformers\n---\n# A tiny model\n"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split()])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special)


def tiny_towers(seed: int = 0) -> tuple[ViTModel, DistilBertModel]:
    torch.manual_seed(seed)
    vision = ViTModel(
        ViTConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            image_size=16,
            patch_size=8,
        )
    )
    text = DistilBertModel(DistilBertConfig(vocab_size=40, dim=16, n_layers=1, n_heads=2, hidden_dim=32))
    return vision, text


def tiny_model(seed: int = 0) -> CustomClipModel:
    vision, text = tiny_towers(seed)
    config = CustomClipConfig.from_vision_text_configs(vision.config, text.config, projection_dim=8)
    return CustomClipModel(config, vision_model=vision, text_model=text).eval()


def tiny_processor() -> CustomClipProcessor:
    size = {"height": 16, "width": 16}
    return CustomClipProcessor(CLIPImageProcessor(size=size, do_center_crop=False), tiny_tokenizer())


def save_tiny(folder: Path, seed: int = 0) -> Path:
    """A folder as training leaves it, ready to publish."""
    tiny_model(seed).save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    return folder

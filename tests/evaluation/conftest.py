"""A tiny CustomClipModel with its processor, and pictures and words to feed it."""

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, CLIPImageProcessor, PreTrainedTokenizerFast, ViTConfig

from hf_customclip import CustomClipConfig, CustomClipModel, CustomClipProcessor

WORDS = """this is a photo of . drawing the red green blue cat dog bird house tree in on with small big"""


@pytest.fixture(scope="session")
def processor():
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS.split()])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )
    size = {"height": 32, "width": 32}
    return CustomClipProcessor(CLIPImageProcessor(size=size, do_center_crop=False), fast)


def make_model(**config):
    torch.manual_seed(0)
    vision = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    text = BertConfig(
        vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    model = CustomClipModel(
        CustomClipConfig.from_vision_text_configs(vision, text, projection_dim=16, **config)
    )
    # Weights of the usual size make random towers nearly constant; wider ones tell inputs apart.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and "projection" not in name:
                weight.normal_(std=0.3)
    # Left in train mode on purpose: the heads' dropout must not reach an evaluation.
    return model.train()


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture(scope="session")
def sigmoid_model():
    return make_model(loss_type="sigmoid")


@pytest.fixture(scope="session")
def images():
    """24 pictures of different noise on different colours and of different sizes, one of them grey."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(24):
        base = rng.integers(0, 200, 3)
        noise = rng.integers(0, 55, (30 + i, 40, 3))
        pictures.append(Image.fromarray((base + noise).astype("uint8")))
    pictures[5] = pictures[5].convert("L")
    return pictures

"""Tiny towers with random weights in ordinary folders, tokenizers trained on the spot, and drawn images.

Import as `from tiny import tiny_model, tiny_processor, tiny_dataset, …`. Everything takes milliseconds.
"""

import itertools
import string
from pathlib import Path
from typing import Any

import torch
import transformers as tr
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Images
from PIL import ImageDraw

from hf_customclip import CustomClipConfig, CustomClipModel, CustomClipProcessor, TorchvisionBackboneModel

VISION_KINDS = ("torchvision", "vit", "resnet", "dinov2", "timm", "clip")
TEXT_KINDS = ("distilbert", "bert", "xlm_roberta", "minilm", "t5", "clip")

SIZES = ("large", "small")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "pink")
SHAPES = ("square", "circle", "triangle", "cross")
BACKGROUNDS = ("white", "grey", "brown", "cyan")
SENTENCES = (
    "a {} {} {} on {}",
    "{} {} {} drawn on a {} background",
    "this is a photo of the {} {} {} , {} behind it",
)
WORDS = sorted(
    {*SIZES, *COLOURS, *SHAPES, *BACKGROUNDS, *" ".join(SENTENCES).replace("{}", "").split(), ".", ","}
)

IMAGE_SIZE = 32
# The libraries' 0.02 is right for wide layers; in tiny ones it makes all inputs look alike.
_LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
}
_TEXT: dict[str, Any] = {**_LAYERS, "intermediate_size": 64, "max_position_embeddings": 64}


# ---- Data ----


def tiny_dataset(n: int = 32, captions: int = 2) -> Dataset:
    """`n` different drawings (up to 256) in the project's form, with `captions` captions each (up to 3)."""
    things = list(itertools.product(SIZES, BACKGROUNDS, COLOURS, SHAPES))[:n]
    rows = {
        "image": [_drawing(*thing) for thing in things],
        "captions": [
            [sentence.format(size, colour, shape, background) for sentence in SENTENCES[:captions]]
            for size, background, colour, shape in things
        ],
        "image_id": list(range(len(things))),
    }
    return Dataset.from_dict(
        rows,
        features=Features({"image": Image(), "captions": List(Value("string")), "image_id": Value("int64")}),
    )


def _drawing(size: str, background: str, colour: str, shape: str) -> Images.Image:
    image = Images.new("RGB", (IMAGE_SIZE + 8, IMAGE_SIZE), background)
    draw, r = ImageDraw.Draw(image), {"large": 12, "small": 7}[size]
    x, y = image.width // 2, image.height // 2
    if shape == "square":
        draw.rectangle((x - r, y - r, x + r, y + r), colour)
    elif shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), colour)
    elif shape == "triangle":
        draw.polygon(((x, y - r), (x - r, y + r), (x + r, y + r)), colour)
    else:
        draw.line((x - r, y - r, x + r, y + r), colour, 4)
        draw.line((x - r, y + r, x + r, y - r), colour, 4)
    return image


# ---- Model and processor ----


def tiny_model(**config: Any) -> CustomClipModel:
    """ViT and DistilBERT, 32 wide, random weights (the same ones in every call), in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        joined = CustomClipConfig.from_vision_text_configs(
            _vision_config("vit"),
            _text_config("distilbert", len(tiny_tokenizer())),
            **{"projection_dim": 16, **config},
        )
        return CustomClipModel(joined).eval()


def tiny_processor(max_text_length: int = 32) -> CustomClipProcessor:
    """The processor that belongs to `tiny_model`."""
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = max_text_length
    return CustomClipProcessor(tr.CLIPImageProcessor(**_preprocessing()), tokenizer)


def tiny_tokenizer(kind: str = "distilbert") -> Any:
    """Words of `tiny_dataset` whole, others by letters; the tokenizer class that goes with the text tower."""
    if kind in ("xlm_roberta", "t5", "clip"):
        cls = {"xlm_roberta": tr.XLMRobertaTokenizer, "t5": tr.T5Tokenizer, "clip": tr.CLIPTokenizer}[kind]
        texts = [" ".join(WORDS), *WORDS] * 10
        return cls().train_new_from_iterator(texts, vocab_size=600, show_progress=False)
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    tokens = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *WORDS])
    cls = tr.DistilBertTokenizer if kind == "distilbert" else tr.BertTokenizer
    return cls(vocab={token: i for i, token in enumerate(tokens)})


# ---- Towers in folders ----


def tiny_vision_tower(kind: str, folder: Path) -> str:
    """Save a tower of VISION_KINDS and its image processor as anyone's checkpoint; the folder's name."""
    model: Any
    if kind == "torchvision":
        model = TorchvisionBackboneModel.from_torchvision("squeezenet1_1", weights=None)
    elif kind == "clip":
        return _tiny_clip(folder)
    else:
        model = tr.AutoModel.from_config(_vision_config(kind))
    model.save_pretrained(folder)
    if kind != "timm":
        processor = {
            "dinov2": tr.BitImageProcessor,
            "resnet": tr.ConvNextImageProcessor,
            "vit": tr.ViTImageProcessor,
        }
        processor.get(kind, tr.CLIPImageProcessor)(**_preprocessing(kind)).save_pretrained(folder)
    return str(folder)


def tiny_text_tower(kind: str, folder: Path) -> str:
    """Save a tower of TEXT_KINDS and its tokenizer as anyone's checkpoint; the folder's name."""
    if kind == "clip":
        return _tiny_clip(folder)
    tokenizer = tiny_tokenizer(kind)
    # The vocabulary of T5 is for encoder and decoder: the whole model is saved, as in real checkpoints.
    tr.AutoModel.from_config(_text_config(kind, len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _tiny_clip(folder: Path) -> str:
    tokenizer = tiny_tokenizer("clip")
    config = tr.CLIPConfig(
        text_config=_text_config("clip", len(tokenizer)).to_dict(),
        vision_config=_vision_config("clip").to_dict(),
    )
    tr.CLIPModel(config).save_pretrained(folder)
    tr.CLIPImageProcessor(**_preprocessing()).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def _preprocessing(kind: str = "clip") -> dict[str, Any]:
    if kind == "vit":
        return {"size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    crop = {} if kind == "resnet" else {"crop_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE}}
    return {"size": {"shortest_edge": IMAGE_SIZE}, **crop}


def _vision_config(kind: str) -> Any:
    patches = {**_LAYERS, "image_size": IMAGE_SIZE, "patch_size": 8}
    if kind == "vit":
        return tr.ViTConfig(**patches, intermediate_size=64)
    if kind == "dinov2":
        return tr.Dinov2Config(**patches, mlp_ratio=2)
    if kind == "clip":
        return tr.CLIPVisionConfig(**patches, intermediate_size=64)
    options: dict[str, Any]
    if kind == "timm":
        preset = {"input_size": [3, IMAGE_SIZE, IMAGE_SIZE], "crop_pct": 0.95, "interpolation": "bicubic"}
        options = {"architecture": "test_efficientnet", "pretrained_cfg": preset}
        return tr.TimmWrapperConfig(**options)
    options = {"embedding_size": 16, "hidden_sizes": [16, 24], "depths": [1, 2], "layer_type": "basic"}
    return tr.ResNetConfig(**options)


def _text_config(kind: str, vocab_size: int) -> Any:
    if kind == "distilbert":
        return tr.DistilBertConfig(
            vocab_size=vocab_size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=64,
            initializer_range=_TEXT["initializer_range"],
        )  # fmt: skip
    if kind == "t5":
        return tr.T5Config(vocab_size=vocab_size, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2)
    if kind == "xlm_roberta":
        return tr.XLMRobertaConfig(vocab_size=vocab_size, **_TEXT, pad_token_id=1)
    if kind == "clip":
        start, end = vocab_size - 2, vocab_size - 1
        return tr.CLIPTextConfig(vocab_size=vocab_size, **_TEXT, bos_token_id=start, eos_token_id=end)
    return tr.BertConfig(vocab_size=vocab_size, **_TEXT)

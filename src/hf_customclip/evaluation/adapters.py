"""A model in the shapes that other people's measuring code calls: CLIP_benchmark, open_clip's kin, torchmetrics.

model, transform, tokenizer = load_open_clip_style("user/my-clip", device="cpu")
image_features = model.encode_image(transform(image)[None])
text_features = model.encode_text(tokenizer(["a cat", "a dog"]))

score = torchmetrics.multimodal.CLIPScore(lambda: load_for_clip_score("user/my-clip"))
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from ..data.images import decode_image, to_rgb

MODEL_TYPE = "hf_customclip"
CLIP_BENCHMARK_DEFAULT = "laion400m_e32"


class OpenClipStyleModel(nn.Module):
    """`encode_image`, `encode_text` and `logit_scale` around a model with `get_image_features` and its kin.

    Args:
        model: the dual encoder; it is put in eval mode.
        pad_token_id: tells the padding of a row of tokens from its text, as open_clip passes no mask.
    """

    def __init__(self, model: PreTrainedModel, pad_token_id: int) -> None:
        super().__init__()
        self.model = model.eval()
        self.pad_token_id = pad_token_id

    @property
    def logit_scale(self) -> Tensor:
        """The log of the inverse temperature."""
        return self.model.logit_scale  # type: ignore[return-value]

    def encode_image(self, image: Tensor, normalize: bool = False) -> Tensor:
        """Pixels `[n, channels, height, width]` to embeddings `[n, d]`, not normalised, as open_clip's."""
        features = self.model.get_image_features(image.to(self.model.dtype)).pooler_output
        return F.normalize(features, dim=-1) if normalize else features

    def encode_text(self, text: Tensor, normalize: bool = False) -> Tensor:
        """Tokens `[n, length]` from this module's tokenizer to embeddings `[n, d]`, not normalised."""
        mask = (text != self.pad_token_id).long()
        features = self.model.get_text_features(text, mask).pooler_output
        return F.normalize(features, dim=-1) if normalize else features

    def forward(
        self, image: Tensor | None = None, text: Tensor | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor]:
        """As open_clip: normalised image features, normalised text features, and the inverse temperature."""
        return (
            None if image is None else self.encode_image(image, normalize=True),
            None if text is None else self.encode_text(text, normalize=True),
            self.logit_scale.exp(),
        )


class OpenClipStyleTransform:
    """One image to pixels `[channels, height, width]`; a class, so that worker processes can have it."""

    def __init__(self, processor: ProcessorMixin) -> None:
        self.processor = processor

    def __call__(self, image: Any) -> Tensor:
        return self.processor(images=[to_rgb(decode_image(image))], return_tensors="pt")["pixel_values"][0]


class OpenClipStyleTokenizer:
    """Texts to tokens `[n, context_length]`, all rows equally long as open_clip's are.

    Raises:
        ValueError: the tokenizer pads with its end-of-text token (or has no padding), so that the text's own
            end could not be told from padding.
    """

    def __init__(self, processor: Any, context_length: int) -> None:
        self.tokenizer, self.context_length = processor.tokenizer, context_length
        if self.tokenizer.pad_token_id in (None, self.tokenizer.eos_token_id):
            raise ValueError(
                "open_clip-style code passes no attention mask, so the tokenizer must pad with a token of "
                f"its own, but here padding is {self.tokenizer.pad_token!r} and the end of a text "
                f"{self.tokenizer.eos_token!r}."
            )

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Tensor:
        texts = [texts] if isinstance(texts, str) else list(texts)
        length = context_length or self.context_length
        tokens = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return tokens["input_ids"]


def load_open_clip_style(
    model_name: str | os.PathLike[str],
    pretrained: str | None = None,
    cache_dir: str | None = None,
    device: str | torch.device = "cpu",
) -> tuple[OpenClipStyleModel, OpenClipStyleTransform, OpenClipStyleTokenizer]:
    """A model folder or Hub id as `(model, transform, tokenizer)`, the form of CLIP_benchmark's loaders.

    Args:
        model_name: a folder or Hub id.
        pretrained: the revision of a Hub id. CLIP_benchmark always passes one; its default, the name of an
            open_clip checkpoint, means none here.
        cache_dir: where downloads are kept.
        device: where the model goes.
    """
    from ..modeling.modeling_custom_clip import CustomClipModel
    from ..modeling.processing_custom_clip import CustomClipProcessor

    revision = None if pretrained in ("", CLIP_BENCHMARK_DEFAULT) else pretrained
    where: dict[str, Any] = {"revision": revision or "main", "cache_dir": cache_dir}
    model = CustomClipModel.from_pretrained(model_name, **where).to(device)
    processor = CustomClipProcessor.from_pretrained(model_name, **where)
    tokenizer = OpenClipStyleTokenizer(processor, model.config.max_text_length)
    adapted = OpenClipStyleModel(model, processor.tokenizer.pad_token_id)
    return adapted, OpenClipStyleTransform(processor), tokenizer


class TensorFeatures(nn.Module):
    """`get_image_features` and `get_text_features` that give tensors, as before transformers 5.

    torchmetrics' CLIPScore calls them so; the embeddings it normalises itself.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model, self.config = model.eval(), model.config

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Pixels `[n, channels, height, width]` to embeddings `[n, d]`."""
        return self.model.get_image_features(pixel_values=pixel_values).pooler_output

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Tokens `[n, length]` to embeddings `[n, d]`."""
        return self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask).pooler_output


def load_for_clip_score(model_name: str | os.PathLike[str]) -> tuple[TensorFeatures, ProcessorMixin]:
    """A model folder or Hub id as what torchmetrics' CLIPScore takes a function for."""
    from ..inference.load_model import load_model

    model, processor = load_model(model_name)
    return TensorFeatures(model), processor


def register_with_clip_benchmark() -> None:
    """Make `--model_type hf_customclip` known to the installed `clip_benchmark`, in this process."""
    from clip_benchmark import models

    models.TYPE2FUNC[MODEL_TYPE] = load_open_clip_style
    if MODEL_TYPE not in models.MODEL_TYPES:
        # The command line holds this very list, so it is extended, not replaced.
        models.MODEL_TYPES.append(MODEL_TYPE)


def main() -> None:
    """`python -m hf_customclip.evaluation.adapters eval …`: CLIP_benchmark's own command line."""
    register_with_clip_benchmark()
    from clip_benchmark.cli import main as clip_benchmark

    clip_benchmark()


if __name__ == "__main__":
    main()

"""From examples to the tensors that the model takes."""

from __future__ import annotations

from typing import Any

import torch
from transformers import ProcessorMixin

from .preparation import image_inputs, text_inputs


class ContrastiveCollator:
    """Stacks examples of `TrainingDataset` or `RetrievalDataset` into model inputs.

    Gives `pixel_values` or `image_features`, `input_ids` and `attention_mask` or `text_features`, and
    `image_ids`; for examples with several captions also `text_image_ids`, the image of each text; where the data
    have them `group_ids` of images and `caption_ids` of texts.
    """

    def __init__(self, processor: ProcessorMixin | None, max_text_length: int) -> None:
        self.processor, self.max_text_length = processor, max_text_length

    def __call__(self, examples: list[dict[str, Any]] | dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Examples to a batch; one that `TrainingDataset` has made of cached features is a batch already."""
        if isinstance(examples, dict):
            return examples
        image_ids = torch.tensor([example["image_id"] for example in examples])
        batch = {"image_ids": image_ids, **self._images(examples), **self._texts(examples)}
        counts = [len(e["captions"] if "captions" in e else e["text_features"]) for e in examples]
        # Said by those that may have several, as one process's images might all have one.
        if "text_image_ids" in examples[0] or any(count != 1 for count in counts):
            batch["text_image_ids"] = image_ids.repeat_interleave(torch.tensor(counts))
        for name in ("group_ids", "caption_ids"):
            if name in examples[0]:
                batch[name] = torch.cat([example[name] for example in examples])
        return batch

    def _images(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if "image_features" in examples[0]:
            return {"image_features": torch.stack([example["image_features"] for example in examples])}
        return image_inputs(self._processor(), [example["image"] for example in examples])

    def _texts(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if "text_features" in examples[0]:
            return {"text_features": torch.cat([example["text_features"] for example in examples])}
        captions = [caption for example in examples for caption in example["captions"]]
        return text_inputs(self._processor(), captions, self.max_text_length)

    def _processor(self) -> Any:
        if self.processor is None:
            raise ValueError(
                "images and captions need a processor: pass processing_class=CustomClipProcessor(…)"
            )
        return self.processor

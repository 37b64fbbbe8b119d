# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""`encode_image` and `encode_text`, as users of sentence-transformers expect them."""

import importlib
from typing import Any

from transformers import AutoProcessor


class EncodingMixin:
    """From paths, images and words straight to embeddings, by the package's encoder (`hf_customclip.inference`)."""

    _loaded_processor: Any = None

    def encode_image(self, images: Any, processor: Any = None, **options: Any) -> Any:
        """Images to L2-normalised float32 embeddings (count, projection_dim); one image to (projection_dim,).

        Args:
            images: one or many: paths, PIL images, bytes or RGB arrays.
            processor: if None, the one saved with the model.
            options: `batch_size`, `num_workers`, `show_progress_bar`, `normalize`, `unreadable`, and
                `convert_to` ("numpy", the default here, or "tensor"); see `hf_customclip.inference.encode_images`.

        Raises:
            ImportError: the code came with a checkpoint, and the package `hf-customclip` is not installed.
            ValueError: an image cannot be read, or the model was never saved and no processor is given.
        """
        encode = _package().encode_images
        return encode(self, processor or self._own_processor(), images, **{"convert_to": "numpy", **options})

    def encode_text(self, texts: Any, processor: Any = None, **options: Any) -> Any:
        """Texts to L2-normalised float32 embeddings (count, projection_dim); one text to (projection_dim,).

        As `encode_image`, with the options of `hf_customclip.inference.encode_texts`.
        """
        encode = _package().encode_texts
        return encode(self, processor or self._own_processor(), texts, **{"convert_to": "numpy", **options})

    def _own_processor(self) -> Any:
        if self._loaded_processor is None:
            name = getattr(self, "name_or_path", "")
            if not name:
                raise ValueError(
                    "this model was loaded from nowhere, so its processor is not known: pass processor="
                )
            self._loaded_processor = AutoProcessor.from_pretrained(name)
        return self._loaded_processor


def _package() -> Any:
    """Imported when first asked for: a checkpoint's code loads, and does all else, without the package."""
    try:
        return importlib.import_module("hf_customclip.inference")
    except ImportError as error:
        raise ImportError(
            "encode_image and encode_text need the package: pip install hf-customclip"
        ) from error

"""Words to vectors by an ONNX text encoder that lies beside an index: without torch, so that search starts at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .encoder import Encoder, load_encoder
from .table import Location, ModelName

FOLDER = "text_encoder"


class StoredTextEncoder(Encoder):
    """Words by the graph in `folder`, which `hf-customclip index --text-encoder` put there; for all else the model is
    loaded when first needed."""

    def __init__(self, folder: Path) -> None:
        from onnxruntime import InferenceSession
        from tokenizers import Tokenizer

        (graph,) = folder.glob("text_model*.onnx")
        self.session = InferenceSession(graph, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.made_by = ModelName(**json.loads(metadata["made_by"]))
        settings = json.loads(metadata["preprocessing"])
        self.tokenizer = Tokenizer.from_file(str(folder / settings["tokenizer"]))
        self.tokenizer.enable_truncation(settings["max_length"])
        self.tokenizer.enable_padding(direction=settings["padding_side"], pad_id=settings["pad_token_id"])

    @classmethod
    def find(cls, directory: Location) -> StoredTextEncoder | None:
        """That of an index's directory; None where there is none, or onnxruntime is not installed."""
        folder = Path(directory) / FOLDER
        try:
            return cls(folder) if folder.is_dir() else None
        except ImportError:
            return None

    def describe(self) -> ModelName:
        """The model that it was exported from."""
        return self.made_by

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Words to vectors."""
        encoded = self.tokenizer.encode_batch(list(texts))
        inputs = {
            "input_ids": np.array([each.ids for each in encoded], dtype=np.int64),
            "attention_mask": np.array([each.attention_mask for each in encoded], dtype=np.int64),
        }
        (embeds,) = self.session.run(None, inputs)
        return embeds

    @cached_property
    def _whole(self) -> Encoder:
        return load_encoder(self.made_by, "the index")

    @property
    def model(self) -> Any:
        """The model itself, loaded when first asked for."""
        return self._whole.model

    @property
    def processor(self) -> Any:
        """The model's."""
        return self._whole.processor

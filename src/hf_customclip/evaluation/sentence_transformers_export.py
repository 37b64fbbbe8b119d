"""Makes a saved model folder one that `SentenceTransformer(folder)` loads, for texts and for images.

sentence-transformers (6.0 or later) needs four small JSON files beside the checkpoint that transformers reads
anyway; the weights are not copied. They name the methods that embed each kind of input, and normalisation.
"""

import os
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from .._files import read_json, write_json

_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.transformer.Transformer"},
    {
        "idx": 1,
        "name": "1",
        "path": "1_Normalize",
        "type": "sentence_transformers.base.modules.normalize.Normalize",
    },
]
_EMBEDDING = "sentence_embedding"


def save_for_sentence_transformers(
    model: PreTrainedModel, processor: ProcessorMixin, directory: str | os.PathLike[str]
) -> Path:
    """Save model, processor and what sentence-transformers needs; return the folder.

    Load it with `SentenceTransformer(folder)` where `hf_customclip` is imported, elsewhere with
    `trust_remote_code=True`. `encode` takes texts and images and gives L2-normalised embeddings.
    """
    model.save_pretrained(directory)
    processor.save_pretrained(directory)
    return add_sentence_transformers_files(directory)


def add_sentence_transformers_files(directory: str | os.PathLike[str]) -> Path:
    """Add the four files to a folder that a CustomClipModel and its processor were saved to; return it.

    Raises:
        ValueError: the folder holds no CustomClipModel.
    """
    folder = Path(directory)
    saved = read_json(folder / "config.json") or {}
    if saved.get("model_type") != "custom_clip":
        raise ValueError(f"{folder} holds no saved CustomClipModel (its config.json must say 'custom_clip').")
    (folder / "1_Normalize").mkdir(exist_ok=True)
    write_json(folder / "modules.json", _MODULES)
    write_json(folder / "sentence_bert_config.json", _transformer(saved["max_text_length"]))
    write_json(
        folder / "1_Normalize" / "config.json",
        {"module_input_name": _EMBEDDING, "module_output_name": _EMBEDDING},
    )
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"},
    )
    return folder


def _transformer(max_text_length: int) -> dict[str, Any]:
    return {
        "transformer_task": "feature-extraction",
        "modality_config": {
            kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"}
            for kind in ("text", "image")
        },
        "module_output_name": _EMBEDDING,
        "processing_kwargs": {"text": {"max_length": max_text_length, "truncation": True}},
    }

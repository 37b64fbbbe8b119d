# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Files beside a saved model from which sentence-transformers (6.0 or later) loads it for texts and images.

The weights are not copied. `modules.json` asks for normalised embeddings, and `sentence_bert_config.json` names the
methods that embed each kind of input and cuts texts as the model's own processor does.
"""

import json
import os
from pathlib import Path

_MODULES = "sentence_transformers.base.modules."


def write_sentence_transformers_files(folder: str | os.PathLike[str], max_text_length: int) -> None:
    """Write the two files into the folder of a saved CustomClipModel."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{_MODULES}transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": f"{_MODULES}normalize.Normalize"},
    ]
    methods = {
        kind: {"method": f"get_{kind}_features", "method_output_name": "pooler_output"}
        for kind in ("text", "image")
    }
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": methods,
        "module_output_name": "sentence_embedding",
        "processing_kwargs": {"text": {"max_length": max_text_length, "truncation": True}},
    }
    for name, content in (("modules.json", modules), ("sentence_bert_config.json", transformer)):
        Path(folder, name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

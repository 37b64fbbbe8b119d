"""Export the two encoders to ONNX, and search with them: no torch is needed for a query.

    python examples/export.py outputs/sample outputs/sample-onnx cat.jpg dog.jpg --query "a cat"

`hf-customclip export` does the first half.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer
from transformers import AutoModel, AutoProcessor

import hf_customclip  # noqa: F401 - registers the model with transformers
from hf_customclip.data.images import decode_image, to_rgb
from hf_customclip.export import TEXT_FILE, VISION_FILE, export_onnx


def embed_images(folder: Path, images: list[str]) -> np.ndarray:
    """Once: the processor beside the graph prepares images as in training."""
    processor = AutoProcessor.from_pretrained(folder)
    pixels = processor(images=[to_rgb(decode_image(p)) for p in images], return_tensors="np")["pixel_values"]
    return onnxruntime.InferenceSession(folder / VISION_FILE).run(None, {"pixel_values": pixels})[0]


def embed_query(folder: Path, query: str) -> np.ndarray:
    """Every day: the tokenizer's own file and onnxruntime, nothing else."""
    encoding = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(query)
    inputs = {"input_ids": [encoding.ids], "attention_mask": [encoding.attention_mask]}
    session = onnxruntime.InferenceSession(folder / TEXT_FILE)
    return session.run(None, {name: np.array(value, dtype=np.int64) for name, value in inputs.items()})[0][0]


def export_and_search(model: str, folder: Path, images: list[str], query: str) -> list[str]:
    """The images, the best first."""
    differences = export_onnx(AutoModel.from_pretrained(model), AutoProcessor.from_pretrained(model), folder)
    print(", ".join(f"{name}: within {difference:.0e}" for name, difference in differences.items()))
    cosines = embed_images(folder, images) @ embed_query(folder, query)
    order = np.argsort(-cosines)
    for position in order:
        print(f"{cosines[position]:.3f}  {images[position]}")
    return [images[position] for position in order]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", nargs="+")
    parser.add_argument("--query", required=True)
    arguments = parser.parse_args()
    export_and_search(arguments.model, arguments.folder, arguments.images, arguments.query)

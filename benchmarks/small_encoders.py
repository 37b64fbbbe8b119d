"""What int8 encoders and compressed vectors cost: sizes and recalls, for small_embeddings.md.

    python benchmarks/small_encoders.py outputs/sample

A trained model on the sample's test split with the English captions. Graphs: text and image encoder as ONNX, in float32
and int8. Vectors: each test caption asks for its image among those of all splits, in LanceDB's index types, full
vectors ordering what the compressed ones propose.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import concatenate_datasets
from onnxruntime import InferenceSession

from hf_customclip import load_image_text_dataset, load_model
from hf_customclip.evaluation.retrieval import retrieval_metrics
from hf_customclip.export import export_onnx
from hf_customclip.inference import encode_images, encode_texts
from hf_customclip.search.approximate import COMPRESSIONS, train_approximate
from hf_customclip.search.table import ModelName, VectorTable, with_vectors

SAMPLE = Path(__file__).resolve().parents[1] / "examples" / "sample"
BATCH = 16
WIDTHS = (512, 128)


def graphs_table(model: Any, processor: Any, images: list[Any], texts: list[str], owners: np.ndarray) -> None:
    """Sizes of both graphs, and the sum of recalls with them."""
    print(
        "| graphs | image encoder | text encoder | t2i R@1 | t2i R@10 | rsum |\n|---|---:|---:|---:|---:|---:|"
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, quantize in (("float32", None), ("int8", "int8")):
            export_onnx(model, processor, Path(folder, name), quantize=quantize)
            (vision,), (text,) = (
                list(Path(folder, name).glob(f"{k}_model*.onnx")) for k in ("vision", "text")
            )
            found = retrieval_metrics(
                run(vision, [processor(images=images[i : i + BATCH], return_tensors="np")
                             for i in range(0, len(images), BATCH)], ["pixel_values"]),
                run(text, [processor(text=texts[i : i + BATCH], return_tensors="np")
                           for i in range(0, len(texts), BATCH)], ["input_ids", "attention_mask"]),
                np.arange(len(images)), owners,
            )  # fmt: skip
            sizes = " | ".join(f"{file.stat().st_size / 1e6:.0f} MB" for file in (vision, text))
            recalls = f"{found['t2i_recall@1']:.3f} | {found['t2i_recall@10']:.3f} | {found['rsum']:.1f}"
            print(f"| {name} | {sizes} | {recalls} |", flush=True)


def run(graph: Path, batches: list[Any], names: list[str]) -> np.ndarray:
    """All embeddings of one graph."""
    session = InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {name: batch[name] for name in names})[0] for batch in batches])


def vectors_table(vectors: np.ndarray, queries: np.ndarray, right: np.ndarray) -> None:
    """Recalls of single queries, and what is searched through, by width and index type."""
    print("| width | vectors | bytes an image | t2i R@1 | t2i R@10 |\n|---:|---|---:|---:|---:|")
    for width in WIDTHS:
        cut = vectors[:, :width] / np.linalg.norm(vectors[:, :width], axis=1, keepdims=True)
        asked = queries[:, :width] / np.linalg.norm(queries[:, :width], axis=1, keepdims=True)
        with tempfile.TemporaryDirectory() as folder:
            table = VectorTable.open_or_create(folder, ModelName("", "0" * 32, width))
            ids = [f"{number:05}" for number in range(len(cut))]
            table.put(with_vectors(pa.table({"id": ids, "path": ids, "state": ids}), cut))
            report(f"| {width} | float16, exact | {2 * width} |", table, asked, right)
            for compression, (kind, refine) in COMPRESSIONS.items():
                if compression == "none":
                    continue
                train_approximate(table.table, width, compression)
                newest = max(
                    (Path(folder) / "images.lance" / "_indices").iterdir(), key=lambda e: e.stat().st_mtime
                )
                size = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file()) / len(cut)
                name = f"{compression} ({kind}), {refine} candidates a result"
                report(f"| {width} | {name} | {size:.0f} |", table, asked, right)


def report(start: str, table: VectorTable, queries: np.ndarray, right: np.ndarray) -> None:
    """One row of the table."""
    found = [[int(row["id"]) for row in rows] for rows in table.nearest(queries, 10)]
    hits = np.array(
        [[number in rows[:k] for k in (1, 10)] for rows, number in zip(found, right, strict=True)]
    )
    print(f"{start} {hits[:, 0].mean():.3f} | {hits[:, 1].mean():.3f} |", flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    model, processor = load_model(parser.parse_args().model)
    splits: Any = load_image_text_dataset(str(SAMPLE), languages=["en"])
    everything = concatenate_datasets([splits["train"], splits["validation"], splits["test"]])
    captions = splits["test"]["captions"][:]
    texts = [text for of_image in captions for text in of_image]
    owners = np.repeat(np.arange(len(captions)), [len(of_image) for of_image in captions])
    images = encode_images(model, processor, everything["image"], convert_to="numpy")
    queries = encode_texts(model, processor, texts, convert_to="numpy")
    vectors_table(images, queries, owners + len(everything) - len(captions))
    graphs_table(model, processor, splits["test"]["image"][:], texts, owners)


if __name__ == "__main__":
    main()

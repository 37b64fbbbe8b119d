"""Approximate search over many rows: LanceDB's cells, how many of them a query looks into, and what that finds.

How many is measured when the cells are made: as many as find `RECALL` of the ten nearest, for queries that lie off
the images, as those of words do. Full vectors order what the compressed ones of the cells propose.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

RECALL, CALIBRATION_QUERIES, MIXED = 0.95, 200, 8
# Of n rows, about so many cells times the root of n.
CELLS = 4
TRAINING_ROWS_PER_CELL, ITERATIONS = 32, 8
# Vectors of the cells by name, in LanceDB's own types, and how many candidates each result takes.
COMPRESSIONS = {"int8": ("IvfSq", 4), "binary": ("IvfRq", 20), "none": ("IvfFlat", 1)}
SETTING = "hf_customclip:"
INDEX_NAME = "vector_idx"


def check_compression(name: str) -> None:
    """Raise ValueError for another name than those of `COMPRESSIONS`."""
    if name not in COMPRESSIONS:
        raise ValueError(f"compression is {', '.join(COMPRESSIONS)}, not {name!r}.")


def approximate_settings(table: Any) -> dict[str, Any]:
    """What was measured: `cells`, `probes`, `refine`, `recall`, `rows`; empty while search is exact."""
    kept = table.schema.field("vector").metadata or {}
    found = {
        name.decode().removeprefix(SETTING): value.decode()
        for name, value in kept.items()
        if name.startswith(SETTING.encode())
    }
    return {name: float(value) if name == "recall" else int(value) for name, value in found.items()}


def train_approximate(table: Any, width: int, compression: str, seed: int = 0) -> None:
    """Make cells for the rows that are there, measure how many have to be looked into, and keep that.

    Args:
        width: of the vectors, without a bias.
        compression: how the cells hold vectors: "int8", "binary" or "none".
    """
    from lancedb import index

    count = table.count_rows()
    cells = 2 ** round(np.log2(CELLS * count**0.5))
    kind, refine = COMPRESSIONS[compression]
    config = getattr(index, kind)(
        distance_type="l2",
        num_partitions=cells,
        sample_rate=TRAINING_ROWS_PER_CELL,
        max_iterations=ITERATIONS,
    )
    table.create_index("vector", config=config, replace=True, name=INDEX_NAME)
    for field in table.schema:
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            table.create_index(field.name, config=index.BTree(), replace=True)
    queries = _queries_like_words(table, count, width, np.random.default_rng(seed))
    settings: dict[str, Any] = {"cells": cells, "refine": refine, "rows": count}
    settings |= _calibrate(table, queries, cells, refine)
    kept = {f"{SETTING}{name}": str(value) for name, value in settings.items()}
    table.update_field_metadata({"path": "vector", "metadata": kept})


def _queries_like_words(table: Any, count: int, width: int, generator: np.random.Generator) -> np.ndarray:
    """Each one half an image, half a direction that no image has: the mean of several others."""
    chosen = generator.choice(count, CALIBRATION_QUERIES * (1 + MIXED), replace=False)
    taken = table.take_offsets(sorted(chosen.tolist())).select(["vector"]).to_arrow()["vector"]
    vectors = matrix(taken)
    generator.shuffle(vectors)
    centred = vectors - vectors.mean(axis=0)
    centred[:, width:] = 0
    one, others = centred[:CALIBRATION_QUERIES], centred[CALIBRATION_QUERIES:]
    others = others.reshape(CALIBRATION_QUERIES, MIXED, -1).sum(axis=1)
    return sum(part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, others))


def _calibrate(table: Any, queries: np.ndarray, cells: int, refine: int) -> dict[str, Any]:
    right, probes, recall = _exact(table, queries), 0, 0.0
    for probes in np.unique(np.geomspace(4, cells, 24).astype(int)).tolist():
        found = [_approximate(table, query, probes, refine) for query in queries]
        recall = float(np.mean([np.isin(r, f).mean() for r, f in zip(right, found, strict=True)]))
        if recall >= RECALL:
            break
    return {"probes": probes, "recall": round(recall, 4)}


def _approximate(table: Any, query: np.ndarray, probes: int, refine: int) -> np.ndarray:
    search = table.search(query, vector_column_name="vector").distance_type("l2").nprobes(probes)
    return search.refine_factor(refine).limit(10).with_row_id(True).select([]).to_arrow()["_rowid"].to_numpy()


def _exact(table: Any, queries: np.ndarray, k: int = 10) -> np.ndarray:
    """Row ids of the k highest inner products, all queries at once: (queries, k)."""
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.zeros((len(queries), k), dtype=np.int64)
    for batch in table.search().select(["vector"]).with_row_id(True).limit(None).to_batches():
        block = queries @ matrix(pa.chunked_array([batch["vector"]])).T
        ids = np.broadcast_to(batch["_rowid"].to_numpy(), block.shape)
        scores, rows = np.concatenate([scores, block], axis=1), np.concatenate([rows, ids], axis=1)
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """A column of vectors as (rows, width) float32."""
    values = column.combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return flat.reshape(len(values), column.type.list_size)

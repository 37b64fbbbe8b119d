"""Approximate search over many rows: LanceDB's indexes, how far a query looks into them, and what that finds.

How far is measured when the index is made: as far as finds `RECALL` of the ten nearest, or as finds hardly fewer than
looking further, for captions where there are any, or else for queries that lie off the images, as those of words do.
Full vectors order what the compressed ones propose.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

RECALL, CALIBRATION_QUERIES, MIXED = 0.95, 200, 8
# LanceDB's types by how they hold vectors, and how many candidates each result takes. A graph (HNSW) over bytes,
# or cells (IVF), of which there are about the root of the number of rows.
COMPRESSIONS = {"int8": ("HnswSq", 3), "binary": ("IvfRq", 20), "none": ("IvfFlat", 1)}
GRAPH = {"m": 16, "ef_construction": 64}
CELLS = {"sample_rate": 32, "max_iterations": 8}
LEAST_EFFORT, MOST_EFFORT, STEPS = 32, 2048, 16
HARDLY_MORE = 0.002
SETTINGS = "hf_customclip"
INDEX_NAME = "vector_idx"


def check_compression(name: str) -> None:
    """Raise ValueError for another name than those of `COMPRESSIONS`."""
    if name not in COMPRESSIONS:
        raise ValueError(f"compression is {', '.join(COMPRESSIONS)}, not {name!r}.")


def approximate_settings(table: Any) -> dict[str, Any]:
    """What was measured; empty while search is exact.

    `cells`: how many there are, 1 for a graph. `effort`: how many of them, or candidates of the graph, a query looks
    at. `refine`: candidates for each result. `recall`: what that finds. `rows`: how many there were.
    """
    kept = table.schema.field("vector").metadata or {}
    return json.loads(kept.get(SETTINGS.encode(), b"{}"))


def aimed(search: Any, k: int, settings: dict[str, Any], share: float = 1.0) -> Any:
    """A search for k that looks as far as was measured, or further where only a share of the rows may be found."""
    search = search.distance_type("l2").limit(k).refine_factor(settings["refine"])
    if settings["cells"] == 1:
        return search.nprobes(1).ef(max(settings["effort"], k * settings["refine"]))
    probes = min(settings["cells"], int(np.ceil(settings["effort"] / share)))
    return search.minimum_nprobes(probes).maximum_nprobes(settings["cells"])


def train_approximate(
    table: Any, width: int, compression: str, captions: np.ndarray | None = None, seed: int = 0
) -> None:
    """Index the rows that are there, measure how far queries have to look, and keep that.

    Args:
        width: of the vectors, without a bias.
        compression: how the index holds vectors: "int8", "binary" or "none".
        captions: vectors to ask with, as wide as the column, of which `CALIBRATION_QUERIES` are drawn; fewer are not
            used.
    """
    from lancedb import index

    count = table.count_rows()
    kind, refine = COMPRESSIONS[compression]
    cells = 1 if kind == "HnswSq" else 2 ** round(np.log2(count**0.5))
    config = getattr(index, kind)(
        distance_type="l2", num_partitions=cells, **(GRAPH if kind == "HnswSq" else CELLS)
    )
    table.create_index("vector", config=config, replace=True, name=INDEX_NAME)
    for field in table.schema:
        if pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            table.create_index(field.name, config=index.BTree(), replace=True)
    generator = np.random.default_rng(seed)
    if captions is None or len(captions) < CALIBRATION_QUERIES:
        queries = _queries_like_words(table, count, width, generator)
    else:
        queries = captions[generator.choice(len(captions), CALIBRATION_QUERIES, replace=False)]
    settings = {"cells": cells, "refine": refine, "rows": count}
    settings |= _calibrate(table, queries, settings)
    table.update_field_metadata({"path": "vector", "metadata": {SETTINGS: json.dumps(settings)}})


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


def _calibrate(table: Any, queries: np.ndarray, settings: dict[str, Any]) -> dict[str, Any]:
    right, effort, recall = _exact(table, queries), 0, 0.0
    most = MOST_EFFORT if settings["cells"] == 1 else settings["cells"]
    for effort in np.unique(np.geomspace(min(LEAST_EFFORT, most), most, STEPS).astype(int)).tolist():
        found = [_approximate(table, query, {**settings, "effort": effort}) for query in queries]
        shares = np.array([np.isin(r, f).mean() for r, f in zip(right, found, strict=True)])
        before, recall = recall, shares.mean()
        # So far above the aim that other queries reach it too: a standard error of the mean.
        if recall - shares.std() / len(shares) ** 0.5 >= RECALL or recall - before < HARDLY_MORE:
            break
    return {"effort": effort, "recall": round(float(recall), 4)}


def _approximate(table: Any, query: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    search = aimed(table.search(query, vector_column_name="vector"), 10, settings)
    return search.with_row_id(True).select([]).to_arrow()["_rowid"].to_numpy()


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

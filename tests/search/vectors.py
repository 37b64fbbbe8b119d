"""Vectors and tables for tests of search, without any model."""

import numpy as np
import pyarrow as pa

from hf_customclip.search.table import ModelName, VectorTable, with_vectors


def unit_vectors(count, width=16, seed=0):
    """Random directions, as float16 keeps them."""
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def rows_of(ids, vectors, **metadata):
    """Rows as a table takes them."""
    ids = [str(name) for name in ids]
    columns = {"id": ids, "path": pa.nulls(len(ids), pa.string()), "state": ids, **metadata}
    return with_vectors(pa.table(columns), np.asarray(vectors))


def empty_table(directory=None, width=16, bias=False):
    return VectorTable.open_or_create(directory, ModelName("some/model", "0" * 32, width), bias=bias)


def brute_force(vectors, query, k, allowed=None):
    """Numbers of the k nearest in float64, the lower of equal ones first."""
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    order = np.lexsort((np.arange(len(scores)), -scores))
    return [n for n in order.tolist() if allowed is None or allowed[n]][:k]

"""Candidates for a query out of many vectors, by FAISS: near ones, of which exact scores then choose.

Vectors are projected on the axes that hold `VARIANCE` of their variance, fall into cells (IVF), and are kept in
8 bits for each axis. A query looks into its nearest cells only. How many, is measured when the cells are
made: as many as find `RECALL` of the ten nearest, for queries that lie off the images, as those of words
do. FAISS runs on one thread for each query: its threads wait for each other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .._files import replacing
from .rows import BLOCK_ROWS, Rows

RECALL, CALIBRATION_QUERIES, MIXED = 0.95, 200, 8
VARIANCE, AXES_STEP = 0.9, 32
# Of n rows, about so many cells times the root of n.
CELLS = 8
TRAINING_ROWS_PER_CELL, ITERATIONS = 32, 6
# Candidates for each result: 8 bits leave the order of near ones open.
DEPTH, LEAST_DEPTH = 10, 100


class Neighbours:
    """A FAISS index of the first `count` rows.

    Args:
        index: IVF over projected vectors, whose ids are row numbers.
        count: how many rows have been looked at; those that were removed by then are not in it.
        cells: how many cells a query looks into.
        recall: recall@10 as it was measured with so many.
        file: where it lies, if it does.
    """

    def __init__(self, index: Any, count: int, cells: int, recall: float, file: Path | None = None) -> None:
        self.index, self.count, self.cells, self.recall, self.file = index, count, cells, recall, file

    @classmethod
    def train(cls, rows: Rows, seed: int = 0) -> Neighbours:
        """Make cells for these rows, and put all of them in.

        Raises:
            ImportError: FAISS is not installed.
        """
        faiss = _faiss()
        generator = np.random.default_rng(seed)
        there = np.flatnonzero(~rows.removed)
        cells = 2 ** int(np.log2(CELLS * len(there) ** 0.5))
        sample = generator.choice(there, min(len(there), TRAINING_ROWS_PER_CELL * cells), replace=False)
        vectors = rows.vectors(np.sort(sample))
        projection = _projection(faiss, vectors)
        quantizer = faiss.IndexFlatIP(projection.d_out)
        ivf = faiss.IndexIVFScalarQuantizer(
            quantizer, projection.d_out, cells, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        ivf.cp.niter, ivf.cp.seed, ivf.cp.min_points_per_centroid = ITERATIONS, seed + 1, 1
        # By distance: the nearest cell by inner product would be the longest centre for most vectors.
        ivf.clustering_index = by_distance = faiss.IndexFlatL2(projection.d_out)
        ivf.train(projection.apply(vectors))
        ivf.clustering_index = None  # FAISS does not own what it was given
        del by_distance
        made = cls(faiss.IndexPreTransform(projection, ivf), 0, 1, 0.0)
        made.extend(rows)
        made._calibrate(rows, vectors, generator)
        return made

    def extend(self, rows: Rows) -> None:
        """Put in the rows that were added since; nothing is trained."""
        faiss = _faiss()
        if self.file is not None:  # mapped, and so read-only
            self.index, self.file = faiss.read_index(str(self.file)), None
        for first in range(self.count, len(rows.table), BLOCK_ROWS):
            numbers = np.arange(first, min(first + BLOCK_ROWS, len(rows.table)))
            numbers = numbers[~rows.removed[numbers]]
            self.index.add_with_ids(rows.vectors(numbers), numbers)
        self.count = len(rows.table)

    def candidates(
        self, vectors: np.ndarray, k: int, among: np.ndarray, cells: int | None = None
    ) -> list[np.ndarray]:
        """Rows that may be the k nearest, for each query, in no order.

        Args:
            vectors: (queries, width).
            among: (count,) which rows may be found. The fewer they are, the more cells are looked into.
            cells: how many, if not as many as were found to be enough.
        """
        faiss = _faiss()
        allowed = int(np.count_nonzero(among))
        wanted = (cells or self.cells) * self.count / max(1, allowed)
        inner = faiss.SearchParametersIVF(nprobe=min(self._ivf().nlist, int(np.ceil(wanted))))
        if allowed < self.count:
            # Kept in a name, as FAISS does not own it.
            bits = np.packbits(among, bitorder="little")
            inner.sel = selector = faiss.IDSelectorBitmap(bits)
            inner.referenced_objects = [selector, bits]
        parameters = faiss.SearchParametersPreTransform(index_params=inner)
        depth = min(allowed, max(LEAST_DEPTH, DEPTH * k))
        lines = [self.index.search(vector[None], depth, params=parameters)[1][0] for vector in vectors]
        return [line[line >= 0] for line in lines]

    def _calibrate(self, rows: Rows, vectors: np.ndarray, generator: np.random.Generator) -> None:
        queries = _queries_like_words(vectors, generator)
        among = ~rows.removed
        _, right = rows.nearest(queries, 10, among)
        steps = np.unique(np.geomspace(4, self._ivf().nlist, 24).astype(int))
        for cells in steps.tolist():
            found = self.candidates(queries, 10, among, cells)
            top = [n[np.argsort(-(rows.vectors(n) @ q))[:10]] for n, q in zip(found, queries, strict=True)]
            self.cells = cells
            self.recall = float(np.mean([np.isin(r, t).mean() for r, t in zip(right, top, strict=True)]))
            if self.recall >= RECALL:
                return

    def _ivf(self) -> Any:
        return _faiss().extract_index_ivf(self.index)

    # ---- Files ----

    def write(self, file: Path) -> None:
        """Write it, whole or not at all."""
        with replacing(file) as name:
            _faiss().write_index(self.index, str(name))
        self.file = file

    def describe(self) -> dict[str, Any]:
        """What `open` needs besides the file."""
        file = self.file.name if self.file else None
        return {"file": file, "count": self.count, "cells": self.cells, "recall": self.recall}

    @classmethod
    def open(cls, directory: Path, described: dict[str, Any]) -> Neighbours:
        """Memory-map what was written."""
        faiss = _faiss()
        file = directory / described["file"]
        index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
        # Or every query starts 32 threads that read ahead, four times as long as it takes to look.
        lists = faiss.downcast_InvertedLists(faiss.extract_index_ivf(index).invlists)
        lists.prefetch_nthread = 0
        return cls(index, described["count"], described["cells"], described["recall"], file)


def _queries_like_words(vectors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each one half an image, half a direction that no image has: the mean of several others."""
    centred = vectors - vectors.mean(axis=0)
    chosen = generator.choice(len(vectors), (CALIBRATION_QUERIES, 1 + MIXED))
    one, others = centred[chosen[:, 0]], centred[chosen[:, 1:]].sum(axis=1)
    return sum(part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, others))


def _projection(faiss: Any, vectors: np.ndarray) -> Any:
    """To the axes of the largest variance; not centred, which would change the order of inner products."""
    centred = vectors - vectors.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    shares = np.cumsum(variances[::-1]) / variances.sum()
    count = int(np.searchsorted(shares, VARIANCE)) + 1
    count = min(vectors.shape[1], -(-count // AXES_STEP) * AXES_STEP)
    projection = faiss.LinearTransform(vectors.shape[1], count, False)
    faiss.copy_array_to_vector(np.ascontiguousarray(axes[:, ::-1][:, :count].T).ravel(), projection.A)
    projection.is_trained = True
    return projection


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise ImportError(
            "Searching more than 50,000 images needs FAISS: pip install 'hf-customclip[search]'."
        ) from None
    faiss.omp_set_num_threads(1)
    return faiss

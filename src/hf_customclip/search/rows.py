"""The rows of an index: ids, paths, metadata and float16 vectors in Arrow, never changed, only added and removed.

A row that is removed stays where it is, marked; `compacted` gives rows without those. What an index looks up,
filters and compares exactly is here; nothing here knows of files or models.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pyarrow.dataset import dataset

from .sources import OWN_COLUMNS, own_schema

BLOCK_ROWS = 32_768
# Rows that are compared at a time: 4 MB as float32, 512 wide.
PIECE_ROWS = 2048

Filter: TypeAlias = Mapping[str, Any] | pc.Expression


def rows_table(rows: pa.Table, vectors: np.ndarray) -> pa.Table:
    """`rows` with their vectors `[n, d]` as float16, in blocks."""
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float16).reshape(-1), pa.float16())
    column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
    blocks = [column[first : first + BLOCK_ROWS] for first in range(0, len(column), BLOCK_ROWS)]
    return rows.append_column("vector", pa.chunked_array(blocks, column.type))


def join(tables: Sequence[pa.Table]) -> pa.Table:
    """One below the other; a column that a table lacks is null there, and of two types of number the wider is taken.

    Raises:
        ValueError: a column holds numbers here and texts there, or the like.
    """
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"The metadata do not fit those that are there: {error}.") from None


def empty_table(width: int) -> pa.Table:
    """No rows, of vectors that wide."""
    return rows_table(own_schema().empty_table(), np.zeros((0, width)))


class Rows:
    """Arrow rows with the columns `id`, `path`, `state`, `vector` and metadata; each id lives at most once.

    Args:
        table: the rows; blocks of vectors are used where they lie, memory-mapped or not.
        removed: (rows,) which of them are no longer there.
        saved: the files that hold the first rows, and how many each.
    """

    def __init__(
        self,
        table: pa.Table,
        removed: np.ndarray | None = None,
        saved: tuple[tuple[Path, int], ...] = (),
    ) -> None:
        self.table, self.saved = table, saved
        self.width: int = table.schema.field("vector").type.list_size
        self.removed = np.zeros(len(table), dtype=bool) if removed is None else removed
        self.blocks = [_matrix(chunk, self.width) for chunk in table["vector"].chunks if len(chunk)]
        self.starts = np.cumsum([0, *map(len, self.blocks)])

    def __len__(self) -> int:
        """How many are there, removed ones not counted."""
        return len(self.table) - int(np.count_nonzero(self.removed))

    @cached_property
    def place(self) -> dict[str, int]:
        """The row of every id that is there."""
        ids = self.table["id"].to_pylist()
        return {ids[row]: row for row in np.flatnonzero(~self.removed).tolist()}

    # ---- Changing ----

    def with_rows(self, table: pa.Table) -> Rows:
        """These rows and new ones, which take the place of rows with the same id."""
        if not len(table):
            return self
        known = self.without(table["id"].to_pylist())
        joined = join([known.table, table])
        return Rows(joined, np.append(known.removed, np.zeros(len(table), dtype=bool)), self.saved)

    def without(self, ids: Iterable[str]) -> Rows:
        """These rows but those; ids that are not there are passed over."""
        rows = [self.place[name] for name in ids if name in self.place]
        if not rows:
            return self
        removed = self.removed.copy()
        removed[rows] = True
        return Rows(self.table, removed, self.saved)

    def compacted(self) -> Rows:
        """Without the rows that were removed, renumbered."""
        return Rows(self.table.filter(pa.array(~self.removed))) if self.removed.any() else self

    def is_mostly_removed(self) -> bool:
        """Whether more than half of the rows are no longer there."""
        return len(self) < len(self.table) / 2

    # ---- Looking up ----

    @property
    def metadata_columns(self) -> list[str]:
        """Names of the columns that the user gave."""
        return [name for name in self.table.column_names if name not in OWN_COLUMNS]

    def describe(self, rows: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Everything but the vectors, one dictionary for each row."""
        # Value by value: `take` goes through all that there is, 4 ms in a million rows.
        columns = {name: self.table[name] for name in self.table.column_names if name != "vector"}
        return [{name: column[int(row)].as_py() for name, column in columns.items()} for row in rows]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """(rows, width) float32, in the order asked for."""
        found = np.empty((len(rows), self.width), dtype=np.float32)
        blocks = np.searchsorted(self.starts, rows, side="right") - 1
        for block in np.unique(blocks):
            mine = blocks == block
            found[mine] = self.blocks[block][rows[mine] - self.starts[block]]
        return found

    def vectors_of(self, ids: Sequence[str]) -> np.ndarray:
        """(ids, width) float32."""
        return self.vectors(np.array([self.place[name] for name in ids], dtype=np.int64))

    def chosen(self, condition: Filter | None) -> np.ndarray:
        """(rows,) which rows are there and meet a condition on metadata.

        Args:
            condition: `{"column": value}`, with a list for any of several values, all of which have to hold;
                or an expression of `pyarrow.compute` (`pc.field("year") > 2020`).

        Raises:
            ValueError: it names a column that there is not, or compares what cannot be compared.
        """
        there = ~self.removed
        if condition is None:
            return there
        table = self.table.drop_columns("vector")
        try:
            expression = (
                condition if isinstance(condition, pc.Expression) else _expression(condition, table.schema)
            )
            meets = dataset(table).to_table(columns={"meets": expression})["meets"]
            return pc.fill_null(meets, False).to_numpy() & there
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise ValueError(f"The filter {condition} does not fit the columns ({error}).") from None

    # ---- Comparing ----

    def nearest(self, queries: np.ndarray, k: int, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The k rows with the highest inner product, exactly, by comparing with all.

        Args:
            queries: (queries, width).
            among: (rows,) the rows that may be found.

        Returns:
            Scores and rows, (queries, at most k), the best first; of equal scores the earlier row first.
        """
        scores = np.empty((len(queries), 0), dtype=np.float32)
        rows = np.empty((len(queries), 0), dtype=np.int64)
        wide = torch.empty(PIECE_ROWS, self.width)
        for start, block in zip(self.starts, self.blocks, strict=False):
            places = np.flatnonzero(among[start : start + len(block)])
            if not len(places):
                continue
            compared = np.concatenate([scores, _compare(queries, block, places, wide)], axis=1)
            numbers = np.broadcast_to(places + start, (len(queries), len(places)))
            scores, rows = best(compared, np.concatenate([rows, numbers], axis=1), k)
        return scores, rows


def _compare(queries: np.ndarray, block: np.ndarray, places: np.ndarray, wide: torch.Tensor) -> np.ndarray:
    """(queries, places) inner products; `wide` is memory for some rows in float32."""
    scores = torch.empty(len(queries), len(places))
    against = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
    whole = len(places) == len(block)
    for first in range(0, len(places), len(wide)):
        end = min(first + len(wide), len(places))
        piece = block[first:end] if whole else block[places[first:end]]
        # Into memory that is there: to ask the system for new takes longer than all else. Torch, as NumPy
        # takes three times as long to widen.
        torch.mm(against, wide[: end - first].copy_(_tensor(piece)).T, out=scores[:, first:end])
    return scores.numpy()


def _tensor(values: np.ndarray) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # mapped files are not, nor written to
        return torch.from_numpy(values)


def best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k highest of each line, in order; of equal scores the lower row first."""
    if scores.shape[1] > 4 * k:
        # All that tie with the last one stay, so that the lower rows among them are chosen.
        bound = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
        widest = int((scores >= bound).sum(axis=1).max())
        chosen = np.argpartition(-scores, min(widest, scores.shape[1]) - 1, axis=1)[:, :widest]
        scores, rows = np.take_along_axis(scores, chosen, 1), np.take_along_axis(rows, chosen, 1)
    order = np.lexsort((rows, -scores), axis=-1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _matrix(chunk: pa.FixedSizeListArray, width: int) -> np.ndarray:
    return chunk.flatten().to_numpy(zero_copy_only=True).reshape(-1, width)


def _expression(condition: Mapping[str, Any], schema: pa.Schema) -> pc.Expression:
    expression = pc.scalar(True)
    for name, value in condition.items():
        if name not in schema.names:
            raise ValueError(f"There is no column {name!r} to filter by, only {', '.join(schema.names)}.")
        field = pc.field(name)
        if isinstance(value, (list, tuple, set)):
            values = pa.array(list(value))
            # A column without a value has no type that others could be compared with.
            empty = pa.types.is_null(schema.field(name).type)
            expression &= field.isin(pa.nulls(values.null_count) if empty else values)
        else:
            expression &= field == value
    return expression

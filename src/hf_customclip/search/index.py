"""An index of images, searched by words, by image or by both.

**Which library, and why.** Up to `EXACT_ROWS` images every vector is compared, exactly, without any
library. Above that FAISS chooses candidates (`neighbours.py`), and their exact scores order them.
LanceDB and usearch were measured beside it (benchmarks/search_speed.md). LanceDB keeps files and filters well,
but a query takes it 10 ms and more. usearch's graph answers fastest, but takes many times as long to build, and
has no filters in Python, on which removing without rebuilding, several conditions and later rows rest here.
What FAISS lacks, Arrow gives: rows with metadata in memory-mapped files that are written once, whole, and
listed by a manifest that is replaced last (`files.py`), so a kill leaves the index as it was.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from ..inference.load_model import load_model
from . import files
from .embedding import processes
from .encoder import Encoder, ModelName, Query
from .manifest import is_index
from .neighbours import Neighbours
from .rows import Filter, Rows, best, empty_table
from .sources import Images
from .sync import Changes, known_states, plan

# So many are compared one by one in about 20 ms on one core.
EXACT_ROWS = 50_000


@dataclass(frozen=True)
class SearchResult:
    """An image that was found.

    Attributes:
        id: its path in the folder, or the data set's `image_id`.
        score: cosine similarity with the query, -1 to 1.
        path: its file, if it has one.
        metadata: the data set's other columns.
    """

    id: str
    score: float
    path: str | None
    metadata: dict[str, Any]


class ImageIndex:
    """Images by their vectors, of one model. Make one with `build` or `load`.

    Attributes:
        made_by: the model whose vectors these are.
        recall: of the approximate search, recall@10 against the exact one as measured when the
            candidates' index was trained, on queries made up of images; None while search is exact.
        changes: what the last `build`, `update` or `add` did, and which images it could not read.
    """

    def __init__(
        self, encoder: Encoder, made_by: ModelName, rows: Rows, neighbours: Neighbours | None = None
    ) -> None:
        self.encoder, self.made_by = encoder, made_by
        self._rows, self._neighbours = rows, neighbours
        self._directory: Path | None = None
        self.changes = Changes()

    # ---- Making and keeping ----

    @classmethod
    def build(
        cls,
        model: Any,
        processor: Any,
        images: Images,
        *,
        directory: str | os.PathLike[str] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> ImageIndex:
        """Embed images and index them.

        Args:
            model: a `CustomClipModel`, or another dual encoder of transformers.
            images: a folder, a list of files, or a `datasets.Dataset` with the columns `image` and
                `image_id`; its other columns become metadata. Files that cannot be read are left out; `changes`
                says which.
            directory: where the index is kept. What was embedded is then not lost in a kill, several processes
                may work together (`accelerate launch`), and an index that is there is brought up to date.
            batch_size: images embedded at a time.
            num_workers: processes that read and prepare images beside this one.

        Raises:
            ValueError: the directory holds another model's index.
        """
        encoder = Encoder(model, processor)
        if directory is not None and is_index(Path(directory)):
            index = cls.load(directory, model, processor)
        else:
            index = cls(encoder, encoder.describe(), Rows(empty_table(encoder.width)))
            index._directory = None if directory is None else Path(directory)
        index.update(images, batch_size=batch_size, num_workers=num_workers)
        return index

    @classmethod
    def load(cls, directory: str | os.PathLike[str], model: Any = None, processor: Any = None) -> ImageIndex:
        """Open a saved index; vectors are memory-mapped, so that it takes no time, and memory as it is used.

        Args:
            model, processor: those that made it; by default they are loaded from where they came from then.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: another model made it, or it is damaged.
        """
        saved = files.read(Path(directory))
        encoder = Encoder(model, processor) if model is not None else _load_encoder(saved.made_by, directory)
        encoder.describe().check_made(saved.made_by, str(directory))
        index = cls(encoder, saved.made_by, saved.rows, saved.neighbours)
        index._directory = Path(directory)
        return index

    def save(self, directory: str | os.PathLike[str] | None = None) -> Path:
        """Write what is not there yet; readers see the old index or the new one, also after a kill.

        Args:
            directory: by default the one it came from.
        """
        if directory is None and self._directory is None:
            raise ValueError("This index lies in no directory yet: say which to save it to.")
        self._directory = Path(directory or self._directory or "")
        self._settle()
        self._rows = files.write(self._directory, self.made_by, self._rows, self._neighbours)
        return self._directory

    # ---- Changing ----

    def update(self, images: Images, *, batch_size: int = 64, num_workers: int = 0) -> Changes:
        """Bring the index in line with a folder or data set: embed what is new or has changed, drop the rest.

        An index with a directory is saved at the end.
        """
        return self._take(images, drop_gone=True, batch_size=batch_size, num_workers=num_workers)

    def add(self, images: Images, *, batch_size: int = 64, num_workers: int = 0) -> Changes:
        """Add images, in the place of those with the same id; nothing is rebuilt."""
        return self._take(images, drop_gone=False, batch_size=batch_size, num_workers=num_workers)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id; ids that are not there are passed over. How many were removed."""
        before = len(self)
        self._rows = self._rows.without(ids)
        return before - len(self)

    def _take(self, images: Images, drop_gone: bool, batch_size: int, num_workers: int) -> Changes:
        rows, directory = self._rows, self._directory
        shards = files.shards_folder(directory, self.made_by) if directory and drop_gone else None
        wanted = plan(
            self.encoder,
            images,
            known_states(rows),
            rows.vectors_of,
            shards=shards,
            drop_gone=drop_gone,
            batch_size=batch_size,
            num_workers=num_workers,
        )
        self._rows, self.changes = rows.without(wanted.gone).with_rows(wanted.rows), wanted.changes
        self._settle()
        if shards and processes().is_main_process:
            self.save()
            files.drop_shards(shards)
        processes().wait_for_everyone()
        return wanted.changes

    def _settle(self) -> None:
        """Cover by candidates what has become too much to compare one by one."""
        if self._rows.is_mostly_removed():
            self._rows, self._neighbours = self._rows.compacted(), None
        if self._neighbours is None and len(self._rows) > EXACT_ROWS:
            self._neighbours = Neighbours.train(self._rows)
        if self._neighbours is not None and len(self._rows.table) - self._neighbours.count > EXACT_ROWS:
            self._neighbours.extend(self._rows)

    # ---- Searching ----

    @overload
    def search(
        self, query: Query, k: int = ..., *, filter: Filter | None = ..., exact: bool = ...
    ) -> list[SearchResult]: ...
    @overload
    def search(
        self, query: list[Query], k: int = ..., *, filter: Filter | None = ..., exact: bool = ...
    ) -> list[list[SearchResult]]: ...
    def search(
        self,
        query: Query | list[Query],
        k: int = 10,
        *,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """The k images nearest to a query, each once, the best first.

        Args:
            query: words (a str), an image (a `pathlib.Path` or PIL image), or both as a tuple (words, image),
                which searches by the normalised sum of their two vectors. A list is a batch of queries.
            k: how many, at most.
            filter: `{"column": value}` with a list for any of several values, or a `pyarrow.compute`
                expression; only images that meet it are found, and k of them if there are so many.
            exact: compare with all, however many there are.
        """
        queries = query if isinstance(query, list) else [query]
        if k < 1:
            raise ValueError(f"k is at least 1, not {k}.")
        vectors = self.encoder.encode(queries)
        found = [
            self._results(*each)
            for each in zip(*self.nearest(vectors, k, filter=filter, exact=exact), strict=True)
        ]
        return found if isinstance(query, list) else found[0]

    def nearest(
        self, vectors: np.ndarray, k: int, *, filter: Filter | None = None, exact: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and row numbers (queries, at most k) for query vectors (queries, width); see `search`.

        Where a query has fewer than the others, the rest is -inf and row -1.
        """
        rows, neighbours = self._rows, self._neighbours
        chosen = rows.chosen(filter)
        count = int(np.count_nonzero(chosen))
        if exact or neighbours is None or count <= EXACT_ROWS:
            return rows.nearest(vectors, k, chosen)
        covered, added = chosen[: neighbours.count], chosen[neighbours.count :]
        candidates = neighbours.candidates(vectors, k, covered)
        others = rows.nearest(vectors, k, np.append(np.zeros_like(covered), added)) if added.any() else None
        return _merged(rows, vectors, k, candidates, others)

    def _results(self, scores: np.ndarray, rows: np.ndarray) -> list[SearchResult]:
        there = rows >= 0
        described = self._rows.describe(rows[there])
        return [
            SearchResult(
                id=values["id"],
                score=float(np.clip(score, -1.0, 1.0)),  # rounded vectors may be a little too long
                path=values["path"],
                metadata={name: values[name] for name in self._rows.metadata_columns},
            )
            for score, values in zip(scores[there], described, strict=True)
        ]

    # ---- Looking ----

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self._rows.place

    @property
    def ids(self) -> list[str]:
        """Of all images, in the order in which they came."""
        return list(self._rows.place)

    @property
    def rows(self) -> Rows:
        """Vectors and metadata."""
        return self._rows

    @property
    def recall(self) -> float | None:
        """See the class."""
        return None if self._neighbours is None else self._neighbours.recall


def _merged(
    rows: Rows,
    vectors: np.ndarray,
    k: int,
    candidates: Sequence[np.ndarray],
    others: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact scores of the candidates, together with what was compared anyway, if anything was."""
    all_scores = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    all_rows = np.full((len(vectors), k), -1, dtype=np.int64)
    for line, (vector, found) in enumerate(zip(vectors, candidates, strict=True)):
        scores, numbers = rows.vectors(found) @ vector, found
        if others is not None:
            scores, numbers = np.append(scores, others[0][line]), np.append(found, others[1][line])
        top_scores, top_rows = best(scores[None], numbers[None], k)
        all_scores[line, : top_scores.shape[1]] = top_scores[0]
        all_rows[line, : top_rows.shape[1]] = top_rows[0]
    return all_scores, all_rows


def _load_encoder(made_by: ModelName, directory: str | os.PathLike[str]) -> Encoder:
    if not made_by.name:
        raise ValueError(
            f"The index in {directory} was made by a model that had not been saved: pass model and processor."
        )
    try:
        return Encoder(*load_model(made_by.name))
    except OSError as error:
        raise ValueError(
            f"The model that made the index in {directory}, {made_by}, cannot be loaded ({error}): say where "
            "it is now."
        ) from error

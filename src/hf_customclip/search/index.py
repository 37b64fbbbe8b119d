"""An index of images, searched by words, by image or by both. Importing this needs no torch."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import PIL.Image
import pyarrow as pa

from .approximate import approximate_settings, check_compression
from .encoder import Encoder, Query, load_encoder, split_query
from .filters import Filter
from .table import Location, ModelName, VectorTable, with_vectors
from .text_encoder import StoredTextEncoder

if TYPE_CHECKING:
    from .sources import Images, Source

# What a killed process loses.
SAVED_IMAGES, SAVED_SECONDS = 2048, 30.0
THUMBNAIL_SIZE = (384, 384)
NAMES_SHOWN = 20


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


@dataclass(frozen=True)
class Changes:
    """What a run did to a collection.

    Attributes:
        added, changed, unchanged, removed: how many images.
        unreadable: why an image could not be read, by its id; it is not in the collection.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = (self.added, self.changed, self.unchanged, self.removed)
        text = "{} added, {} changed, {} unchanged, {} removed".format(*(f"{count:,}" for count in counts))
        if self.unreadable:
            shown = [f"{name} ({why})" for name, why in list(self.unreadable.items())[:NAMES_SHOWN]]
            more = ["…"] if len(self.unreadable) > NAMES_SHOWN else []
            text += f"; {len(self.unreadable):,} cannot be read: {'; '.join(shown + more)}"
        return text


class ImageIndex:
    """Images by their vectors, of one model, in a table of LanceDB. Make one with `build` or `load`.

    Attributes:
        made_by: the model whose vectors these are.
        changes: what the last `build`, `update` or `add` did, and which images it could not read.
        compression: how approximate search holds vectors: "int8", "binary" or "none".
    """

    def __init__(self, table: VectorTable, encoder: Encoder, compression: str = "int8") -> None:
        check_compression(compression)
        self.table, self.encoder, self.compression = table, encoder, compression
        self.changes = Changes()

    # ---- Making and keeping ----

    @classmethod
    def build(
        cls,
        model: Any,
        processor: Any,
        images: Images,
        *,
        directory: Location | None = None,
        storage_options: Mapping[str, str] | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        compression: str = "int8",
        hubness_correction: bool = True,
    ) -> ImageIndex:
        """Embed images and index them.

        Args:
            model: a `CustomClipModel`, or another dual encoder of transformers.
            images: a folder, a list of files, or a `datasets.Dataset` with the columns `image` and
                `image_id`; its other columns become metadata. Files that cannot be read are left out; `changes`
                says which.
            directory: where the index is kept, a folder or an address as `s3://bucket/index`; None for memory.
                What was embedded is then not lost in a kill, several processes may work together (`accelerate
                launch`), and an index that is there is brought up to date.
            storage_options: of an object store, as LanceDB names them; environment variables do too.
            batch_size: images embedded at a time.
            num_workers: processes that read and prepare images beside this one.
            compression: of the vectors that approximate search (above 50,000 images) goes through; full ones
                order what it proposes.
            hubness_correction: rank words' results with the bias of a model that carries a hubness bank
                (`inference.hubness`); scores stay cosines. An index that is there keeps what it was made with.

        Raises:
            ValueError: the directory holds another model's index.
        """
        source = _listed(images)  # first: where there are no images, no index is left
        encoder = Encoder(model, processor)
        biased = hubness_correction and encoder.bank is not None
        table = VectorTable.open_or_create(directory, encoder.describe(), storage_options, biased)
        index = cls(table, encoder, compression)
        index._take(source, True, batch_size=batch_size, num_workers=num_workers)
        return index

    @classmethod
    def load(
        cls,
        directory: Location,
        model: Any = None,
        processor: Any = None,
        *,
        storage_options: Mapping[str, str] | None = None,
    ) -> ImageIndex:
        """Open a saved index, which takes no time, and memory as it is used.

        Args:
            model, processor: those that made it; by default they are loaded from where they came from then.

        Raises:
            FileNotFoundError: there is no index.
            ValueError: another model made it, or it is damaged.
        """
        # Side by side, as each takes up to a second of imports.
        with ThreadPoolExecutor() as pool:
            stored = pool.submit(StoredTextEncoder.find, directory) if model is None else None
            table = VectorTable.open(directory, storage_options)
        encoder = Encoder(model, processor) if stored is None else stored.result()
        encoder = encoder or load_encoder(table.made_by, directory)
        encoder.describe().check_made(table.made_by, directory)
        return cls(table, encoder)

    def save(
        self, directory: Location | None = None, *, storage_options: Mapping[str, str] | None = None
    ) -> Location:
        """Copy an index to another place, or one in memory to a directory; where it lies now all is written.

        Raises:
            ValueError: no directory is named and this one lies in memory, or the directory holds an index already.
        """
        here = self.table.where
        if directory is None or str(directory) == str(here):
            if str(here).startswith("memory://"):
                raise ValueError("This index lies in no directory yet: say which to save it to.")
            return here
        copy = VectorTable.open_or_create(directory, self.made_by, storage_options, self.table.has_bias)
        copy.remove(set(copy.states()) - set(self.ids))
        for batch in self.table.batches():
            copy.put(pa.Table.from_batches([batch]))
        copy.settle(self.compression, self.encoder.training_captions)
        self.table = copy
        return directory

    # ---- Changing ----

    def update(self, images: Images, *, batch_size: int = 64, num_workers: int = 0) -> Changes:
        """Bring the index in line with a folder or data set: embed what is new or has changed, drop the rest."""
        return self._take(_listed(images), True, batch_size=batch_size, num_workers=num_workers)

    def add(self, images: Images, *, batch_size: int = 64, num_workers: int = 0) -> Changes:
        """Add images, in the place of those with the same id; nothing is rebuilt."""
        return self._take(_listed(images), False, batch_size=batch_size, num_workers=num_workers)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id; ids that are not there are passed over. How many were removed."""
        return self.table.remove(ids)

    def _take(self, source: Source, drop_gone: bool, **loading: int) -> Changes:
        from accelerate.utils import gather_object

        from ..inference.encode import process_state

        state = process_state()
        if state.num_processes > 1 and str(self.table.where).startswith("memory://"):
            raise ValueError("To embed on several processes, name a directory where they can put the parts.")
        known = self.table.states()
        ids, paths, states = (source.column(name) for name in ("id", "path", "state"))
        stale = [n for n, name in enumerate(ids) if name not in known or known[name][1] != states[n]]
        kept = [n for n, name in enumerate(ids) if name in known and known[name][1] == states[n]]
        state.wait_for_everyone()  # nobody may write before everybody has seen what there is to do
        if state.num_processes > 1:
            self.encoder.model.to(state.device)
        with state.split_between_processes(stale) as mine:
            problems = self._embed(source, mine, state.is_local_main_process, **loading)
        unreadable = dict(gather_object(problems))
        gone = [name for name in known if name in unreadable]
        gone += list(set(known) - set(ids) - set(gone)) if drop_gone else []
        if state.is_main_process:
            self.table.move({ids[n]: paths[n] for n in kept if known[ids[n]][0] != paths[n]})
            self.table.remove(gone)
            self.table.settle(self.compression, self.encoder.training_captions)
        state.wait_for_everyone()
        embedded = [ids[n] for n in stale if ids[n] not in unreadable]
        added = sum(name not in known for name in embedded)
        self.changes = Changes(added, len(embedded) - added, len(kept), len(gone), unreadable)
        return self.changes

    def _embed(
        self, source: Source, numbers: list[int], show_bar: bool, **loading: int
    ) -> list[tuple[str, str]]:
        """Put some of a source's images into the table as they are embedded; ids and reasons of the unreadable."""
        from ..inference.encode import iter_encoded_images

        model, processor = self.encoder.model, self.encoder.processor
        how: dict[str, Any] = {"numbers": numbers, "show_progress_bar": show_bar, **loading}
        ids, problems, begun = source.column("id"), [], time.monotonic()
        done: list[int] = []
        vectors: list[np.ndarray] = []
        for batch in iter_encoded_images(model, processor, source.images, **how):
            problems += [(ids[number], error.reason) for number, error in batch.unreadable.items()]
            if batch.numbers:
                done += batch.numbers
                vectors.append(batch.embeds.cpu().numpy())
            if done and (len(done) >= SAVED_IMAGES or time.monotonic() - begun > SAVED_SECONDS):
                self._put(source, done, np.concatenate(vectors))
                done, vectors, begun = [], [], time.monotonic()
        if done:
            self._put(source, done, np.concatenate(vectors))
        return problems

    def _put(self, source: Source, numbers: list[int], vectors: np.ndarray) -> None:
        rows = source.rows.take(pa.array(numbers, pa.int64()))
        paths = rows["path"].to_pylist()
        # A file shows itself.
        thumbnails = [
            None if path else _thumbnail(source.images[number])
            for number, path in zip(numbers, paths, strict=True)
        ]
        rows = rows.append_column("thumbnail", pa.array(thumbnails, pa.binary()))
        vectors = self.encoder.with_bias(vectors) if self.table.has_bias else vectors
        self.table.put(with_vectors(rows, vectors))

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
        self, query: Query | list[Query], k: int = 10, *, filter: Filter | None = None, exact: bool = False
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """The k images nearest to a query, each once, the best first.

        Args:
            query: words (a str), an image (a `pathlib.Path` or PIL image), or both as a tuple (words, image),
                which searches by the normalised sum of their two vectors. A list is a batch of queries.
            k: how many, at most.
            filter: `{"column": value}` with a list for any of several values, or SQL (`"year > 2020"`); only
                images that meet it are found, and k of them if there are so many.
            exact: compare with all, however many there are.
        """
        queries = query if isinstance(query, list) else [query]
        if k < 1:
            raise ValueError(f"k is at least 1, not {k}.")
        found = self.table.nearest(self._vectors(queries), k, filter, exact)
        results = [[_result(row) for row in rows] for rows in found]
        return results if isinstance(query, list) else results[0]

    def _vectors(self, queries: list[Query]) -> np.ndarray:
        split = [split_query(query) for query in queries]
        total = np.zeros((len(queries), self.made_by.width), dtype=np.float32)
        encoders: tuple[Any, Any] = (self.encoder.texts, self.encoder.images)
        for part, encode in enumerate(encoders):
            rows = [row for row, values in enumerate(split) if values[part] is not None]
            if rows:
                total[rows] += encode([split[row][part] for row in rows])
        total /= np.linalg.norm(total, axis=1, keepdims=True)
        if not self.table.has_bias:
            return total
        asks_words = np.array([[image is None] for _, image in split], dtype=np.float32)
        return np.concatenate([total, asks_words], axis=1)

    # ---- Looking ----

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, name: object) -> bool:
        return self.table.row(str(name)) is not None

    @property
    def ids(self) -> list[str]:
        """Of all images."""
        return [name for batch in self.table.batches(["id"]) for name in batch["id"].to_pylist()]

    @property
    def made_by(self) -> ModelName:
        """See the class."""
        return self.table.made_by

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns that can be filtered by."""
        return self.table.schema

    @property
    def recall(self) -> float | None:
        """Of the approximate search, recall@10 against the exact one as measured when it was prepared, on queries
        made up of images; None while search is exact."""
        return approximate_settings(self.table.table).get("recall")

    def image(self, name: str) -> PIL.Image.Image | None:
        """The image with this id: its file, or the thumbnail of one without a file; None where neither is there."""
        from ..data.images import UnreadableImageError, decode_image, to_rgb

        row = self.table.row(name) or {}
        for value in (row.get("path"), row.get("thumbnail")):
            try:
                if value:
                    return to_rgb(decode_image(value))
            except UnreadableImageError:
                pass
        return None


def _result(row: dict[str, Any]) -> SearchResult:
    metadata = {name: value for name, value in row.items() if name not in ("id", "score", "path")}
    # Rounded vectors may be a little too long.
    return SearchResult(row["id"], float(np.clip(row["score"], -1.0, 1.0)), row["path"], metadata)


def _thumbnail(image: Any) -> bytes:
    from ..data.images import decode_image, to_rgb

    small = to_rgb(decode_image(image))
    small.thumbnail(THUMBNAIL_SIZE)
    written = BytesIO()
    small.save(written, "JPEG", quality=85, subsampling=0)
    return written.getvalue()


def _listed(images: Images) -> Source:
    from .sources import open_source  # late: a text search needs no `datasets`

    return open_source(images)

"""The table of an index: rows with their vectors in LanceDB, on a disk or in object storage. Needs no model.

Every change is one commit of LanceDB's: readers see the table before it or after it, and a process that is killed
leaves it as it was. `id` is the primary key, so of two processes that add one image the later one replaces.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
import pyarrow as pa

from .approximate import aimed, approximate_settings, matrix, train_approximate
from .filters import HIDDEN_COLUMNS, Filter, sql_filter

Location: TypeAlias = str | os.PathLike[str]

NAME, FORMAT = "images", 2
OWN_COLUMNS = ("id", "path", "state", "thumbnail", "vector")
# So many are compared one by one; more are searched approximately.
EXACT_ROWS = 50_000
# An opened index sees what others wrote after so long, and for so long what they replaced can still be read.
REFRESHED, REPLACED_KEPT = timedelta(seconds=5), timedelta(minutes=10)


@dataclass(frozen=True)
class ModelName:
    """Whose vectors these are.

    Attributes:
        name: the folder or Hub id that the model was loaded from, for people; "" if it was never saved.
        digest: 32 hexadecimal digits of the weights' bytes and of how images are prepared.
        width: of the vectors.
    """

    name: str
    digest: str
    width: int

    def __str__(self) -> str:
        return f"{self.name or 'a model without a name'} ({self.digest[:8]})"

    def check_made(self, maker: ModelName, where: Location) -> None:
        """Raise ValueError where `maker`, whose vectors lie at `where`, is another model than this."""
        if maker.width != self.width and maker.digest == self.digest:
            raise ValueError(
                f"The vectors in {where} have {maker.width} numbers, and the model cuts them to {self.width}: "
                "set the same --dim (truncate_dim), or write to a new place."
            )
        if maker.digest != self.digest:
            raise ValueError(
                f"The vectors in {where} were made by {maker}, not by {self}, and vectors of two models cannot "
                "be compared: load the model that made them, or write to a new place."
            )


def check_index(directory: Location) -> None:
    """Raise FileNotFoundError where there is no index; objects in a store are not looked for."""
    if "://" not in str(directory) and not (Path(directory) / f"{NAME}.lance").is_dir():
        raise FileNotFoundError(
            f"There is no index in {str(directory)!r}: make one with `hf-customclip index MODEL IMAGES DIRECTORY`."
        )


class VectorTable:
    """Rows with the columns `OWN_COLUMNS` and metadata, each id once; `open` or `open_or_create` it.

    Args:
        table: LanceDB's.
        where: its directory or address, for messages.

    Attributes:
        made_by: the model whose vectors these are.
    """

    def __init__(self, table: Any, where: Location) -> None:
        self.table, self.where = table, where
        about = json.loads((table.schema.metadata or {}).get(b"hf_customclip", b"{}"))
        if about.get("format") != FORMAT:
            raise ValueError(f"{where} holds no index that this version of hf-customclip can read.")
        self.made_by = ModelName(**about["model"])

    @classmethod
    def open(cls, directory: Location, storage_options: Mapping[str, str] | None = None) -> VectorTable:
        """The table that is there.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is damaged, or none of ours.
        """
        check_index(directory)
        try:
            return cls(_connect(directory, storage_options).open_table(NAME), directory)
        except (RuntimeError, OSError, ValueError) as error:
            if "was not found" in str(error):
                raise FileNotFoundError(f"There is no index in {str(directory)!r}.") from None
            raise ValueError(
                f"The index in {directory} is damaged or out of reach ({_first_line(error)})."
            ) from error

    @classmethod
    def open_or_create(
        cls,
        directory: Location | None,
        made_by: ModelName,
        storage_options: Mapping[str, str] | None = None,
        bias: bool = False,
    ) -> VectorTable:
        """The table that is there, or a new one; in memory where there is no directory.

        Args:
            bias: whether vectors have one more component, which is added to the scores of words.

        Raises:
            ValueError: it holds another model's vectors.
        """
        where = directory if directory is not None else f"memory://{uuid4().hex}"
        try:
            table = cls.open(where, storage_options)
        except FileNotFoundError:
            database, schema = _connect(where, storage_options), _new_schema(made_by, bias)
            try:
                table = cls(database.create_table(NAME, schema=schema, exist_ok=True), where)
            except (RuntimeError, OSError) as error:
                raise ValueError(f"No index can be written to {where} ({_first_line(error)}).") from error
        made_by.check_made(table.made_by, where)
        return table

    # ---- Changing ----

    def put(self, rows: pa.Table) -> None:
        """Add rows, in the place of those with the same id; columns that the table lacks are added to it.

        Raises:
            ValueError: a column holds numbers here and texts there, or the like.
        """
        rows = rows.combine_chunks()
        if not len(rows):
            return
        self.table.checkout_latest()
        self._widen(rows.schema)
        merge = self.table.merge_insert("id").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(rows.cast(self._fields(rows.column_names)))

    def move(self, paths: Mapping[str, str | None]) -> None:
        """Write new paths, by id, of images that are otherwise as they were."""
        if paths:
            columns = {"id": list(paths), "path": list(paths.values())}
            rows = pa.table(columns, schema=self._fields(columns))
            self.table.merge_insert("id").when_matched_update_all().execute(rows)

    def remove(self, ids: Iterable[str]) -> int:
        """Remove rows by id; ids that are not there are passed over. How many were removed."""
        names, before = list(ids), len(self)
        if names:
            self.table.delete(sql_filter({"id": names}, self.table.schema))
        return before - len(self)

    def _fields(self, names: Iterable[str]) -> pa.Schema:
        return pa.schema([self.table.schema.field(name) for name in names])

    def _widen(self, schema: pa.Schema) -> None:
        """Give the table the columns of `schema` that it lacks, and floats where it has integers."""
        there = self.table.schema
        new = [field for field in schema if field.name not in there.names]
        if new:
            self.table.add_columns(pa.schema([field.with_nullable(True) for field in new]))
        for field in schema:
            old = there.field(field.name).type if field.name in there.names else field.type
            if old == field.type or field.name in OWN_COLUMNS or pa.types.is_null(field.type):
                continue
            if pa.types.is_integer(old) and pa.types.is_floating(field.type):
                scratch = f"{field.name} {uuid4().hex}"
                self.table.add_columns({scratch: f"cast(`{field.name}` as double)"})
                self.table.drop_columns([field.name])
                self.table.alter_columns({"path": scratch, "rename": field.name})
            elif pa.types.is_null(old):
                self.table.drop_columns([field.name])
                self.table.add_columns(pa.schema([field.with_nullable(True)]))
            elif not (pa.types.is_floating(old) and pa.types.is_integer(field.type)):
                raise ValueError(
                    f"The metadata do not fit those that are there: {field.name!r} holds {old}, and now {field.type}."
                )

    def settle(
        self, compression: str, training_captions: Callable[[], np.ndarray | None] = lambda: None
    ) -> None:
        """Join what many small writes left, and prepare approximate search where there are too many rows.

        Args:
            training_captions: gives vectors of captions, or None, to measure with how far queries have to look.
        """
        self.table.checkout_latest()
        try:
            self.table.optimize(cleanup_older_than=REPLACED_KEPT)
        except RuntimeError as error:
            # Another process wrote meanwhile. Nothing is lost: joining is for speed, and the next run does it.
            if "commit conflict" not in str(error):
                raise
            self.table.checkout_latest()
        trained = approximate_settings(self.table).get("rows", 0)
        if len(self) > max(EXACT_ROWS, 2 * trained):
            captions = training_captions()
            if captions is not None and self.has_bias:
                captions = np.pad(captions, ((0, 0), (0, 1)), constant_values=1)
            train_approximate(self.table, self.made_by.width, compression, captions)

    # ---- Reading ----

    @property
    def has_bias(self) -> bool:
        """Whether vectors have one more component, which is added to the scores of words."""
        return self.table.schema.field("vector").type.list_size > self.made_by.width

    def __len__(self) -> int:
        return self.table.count_rows()

    def states(self) -> dict[str, tuple[str | None, str]]:
        """Path and state of every image, by id."""
        self.table.checkout_latest()
        names = ["id", "path", "state"]
        rows = self.table.search().select(names).limit(None).to_arrow()
        ids, *told = (rows[name].to_pylist() for name in names)
        return dict(zip(ids, zip(*told, strict=True), strict=True))

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, in the table's order."""
        yield from self.table.search().select(columns or self.table.schema.names).limit(None).to_batches()

    def row(self, name: str) -> dict[str, Any] | None:
        """Everything but the vector of one image."""
        columns = [column for column in self.table.schema.names if column != "vector"]
        where = sql_filter({"id": name}, self.table.schema)
        found = self.table.search().where(where).select(columns).limit(1).to_list()
        return found[0] if found else None

    @property
    def schema(self) -> pa.Schema:
        """The columns that can be filtered by: id, path and metadata."""
        return self._fields(name for name in self.table.schema.names if name not in HIDDEN_COLUMNS)

    def nearest(
        self, queries: np.ndarray, k: int, condition: Filter | None = None, exact: bool = False
    ) -> list[list[dict[str, Any]]]:
        """For every query its k nearest rows, the best first, of equal ones the lower id first.

        Args:
            queries: (queries, width of the vector column); rows are ordered by the inner product.

        Returns:
            `id`, `path`, metadata, and `score`: the cosine, of which a bias is no part.

        Raises:
            ValueError: the condition does not fit the columns.
        """
        where = sql_filter(condition, self.table.schema)
        try:
            return self._nearest(queries, k, where, exact)
        except (RuntimeError, OSError):
            # What was open has been replaced by another process.
            self.table.checkout_latest()
            return self._nearest(queries, k, where, exact)
        except ValueError as error:
            if where is None:
                raise
            raise ValueError(
                f"The filter {condition} does not fit the columns ({_first_line(error)})."
            ) from error

    def _nearest(
        self, queries: np.ndarray, k: int, where: str | None, exact: bool
    ) -> list[list[dict[str, Any]]]:
        settings, share = approximate_settings(self.table), 1.0
        exact = exact or not settings
        if where and not exact and settings["cells"] > 1:  # a graph looks as far as it has to by itself
            among = self.table.count_rows(where)
            exact, share = among <= EXACT_ROWS, among / len(self)
        found = []
        for query in queries:
            search = self.table.search(query, vector_column_name="vector")
            if exact:
                search = search.distance_type("dot").bypass_vector_index().limit(k)
            else:
                # More than asked for where a bias may change their order.
                search = aimed(search, 2 * k if self.has_bias else k, settings, share)
            search = search.where(where, prefilter=True) if where else search
            found.append(self._described(search, query, k))
        return found

    def _described(self, search: Any, query: np.ndarray, k: int) -> list[dict[str, Any]]:
        rows = search.select([*self.schema.names, "vector", "_distance"]).to_arrow()
        vectors = matrix(rows["vector"])
        cosines, orders = vectors[:, : self.made_by.width] @ query[: self.made_by.width], vectors @ query
        described = rows.drop_columns(["vector", "_distance"]).to_pylist()
        best = sorted(range(len(described)), key=lambda row: (-orders[row], described[row]["id"]))[:k]
        return [{**described[row], "score": float(cosines[row])} for row in best]


def _new_schema(made_by: ModelName, bias: bool) -> pa.Schema:
    """The columns that every image has, and whose vectors they are."""
    primary = {"lance-schema:unenforced-primary-key": "true"}
    fields = [
        pa.field("id", pa.string(), nullable=False, metadata=primary),
        ("path", pa.string()),
        ("state", pa.string()),
        ("thumbnail", pa.binary()),
        ("vector", pa.list_(pa.float16(), made_by.width + bias)),
    ]
    return pa.schema(fields, {"hf_customclip": json.dumps({"format": FORMAT, "model": asdict(made_by)})})


def with_vectors(rows: pa.Table, vectors: np.ndarray) -> pa.Table:
    """`rows` with their vectors `[n, width]` as float16."""
    values = pa.array(np.ascontiguousarray(vectors, dtype=np.float16).reshape(-1))
    return rows.append_column("vector", pa.FixedSizeListArray.from_arrays(values, vectors.shape[1]))


def _connect(where: Location, storage_options: Mapping[str, str] | None) -> Any:
    try:
        import lancedb
    except ImportError:
        raise ImportError("Search needs LanceDB: pip install 'hf-customclip[search]'.") from None
    options = None if storage_options is None else dict(storage_options)
    return lancedb.connect(str(where), storage_options=options, read_consistency_interval=REFRESHED)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__

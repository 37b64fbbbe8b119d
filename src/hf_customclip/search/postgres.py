"""Vectors and metadata in PostgreSQL with pgvector, for collections beyond one machine.

    CREATE TABLE images (id text PRIMARY KEY, path text, state text, metadata jsonb, embedding halfvec(512))

with an HNSW index for inner products. A query's vector comes from `inference.encode_texts`, and

    SELECT id, path, -(embedding <#> %s) AS score FROM images ORDER BY embedding <#> %s LIMIT 10

gives the nearest images; conditions on `metadata` go into WHERE. The model stands in the table's comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from huggingface_hub import constants

from ..inference.fingerprints import digest_of_json
from .embedding import processes
from .encoder import Encoder, ModelName
from .index import ImageIndex
from .rows import BLOCK_ROWS, Rows
from .sources import OWN_COLUMNS, Images
from .sync import Changes, Plan, bring_in_line, known_states

COPIED = ("id", "path", "state", "metadata", "embedding")


def embed_to_postgres(
    model: Any,
    processor: Any,
    images: Images,
    url: str,
    *,
    table: str = "images",
    batch_size: int = 64,
    num_workers: int = 0,
) -> Changes:
    """Bring a table in line with a folder or data set, in one transaction; it is made if it is not there.

    What has not changed is not embedded again, a run that was killed is taken up again, and several
    processes may share the work, as in `ImageIndex.build`.

    Args:
        url: `postgresql://user@host/database`. The user may create tables, and the extension `vector` if
            the database does not have it yet.
        table: its name, without a schema.

    Raises:
        ValueError: the table holds another model's vectors, or is none of ours.
        OSError: the database cannot be reached.
    """
    encoder = Encoder(model, processor)
    made_by = encoder.describe()
    shards = Path(constants.HF_HOME) / "customclip_embedding" / digest_of_json([url, table, made_by.digest])
    with connect(url) as connection:
        target = _Table(connection, table, made_by)
        if processes().is_main_process:
            target.create()
        processes().wait_for_everyone()
        known = target.known()

    def write(wanted: Plan) -> None:
        with connect(url) as connection:
            _Table(connection, table, made_by).write(wanted.gone, wanted.rows)

    return bring_in_line(
        encoder,
        images,
        known,
        lambda ids: _vectors(url, table, made_by, ids),
        write,
        shards=shards,
        batch_size=batch_size,
        num_workers=num_workers,
    )


def export_to_postgres(index: ImageIndex, url: str, *, table: str = "images") -> int:
    """Bring a table in line with an index, in one transaction; how many rows were written.

    Arguments and errors are those of `embed_to_postgres`.
    """
    rows = index.rows.compacted()
    wanted = known_states(rows)
    with connect(url) as connection:
        target = _Table(connection, table, index.made_by)
        target.create()
        known = target.known()
        changed = np.array([known.get(name) != state for name, state in wanted.items()], dtype=bool)
        target.write([name for name in known if name not in wanted], rows.table.filter(pa.array(changed)))
    return int(changed.sum())


def _vectors(url: str, table: str, made_by: ModelName, ids: list[str]) -> np.ndarray:
    found = np.zeros((len(ids), made_by.width), dtype=np.float16)
    if ids:
        with connect(url) as connection:
            vectors = _Table(connection, table, made_by).vectors(ids)
        found[:] = [vectors[name] for name in ids]
    return found


@contextmanager
def connect(url: str) -> Iterator[Any]:
    """A connection whose changes all happen at the end, or none of them."""
    try:
        import pgvector  # noqa: F401
        import psycopg
    except ImportError:
        raise ImportError("Writing to PostgreSQL needs more: pip install 'hf-customclip[postgres]'") from None
    try:
        opened = psycopg.connect(url)
    except psycopg.OperationalError as error:
        raise OSError(f"The database cannot be reached: {str(error).strip()}") from None
    try:
        with opened:
            yield opened
    except psycopg.Error as error:
        raise OSError(f"PostgreSQL refused: {str(error).strip()}") from error


class _Table:
    """One table of vectors."""

    def __init__(self, connection: Any, name: str, made_by: ModelName) -> None:
        from psycopg import sql

        self.connection, self.name, self.made_by = connection, name, made_by
        self.quoted = sql.Identifier(name)

    def create(self) -> None:
        """Make the table if it is not there, and check that it is this model's."""
        comment = self._comment()
        if comment is None:
            self._run("CREATE EXTENSION IF NOT EXISTS vector")
            self._run(
                "CREATE TABLE {} (id text PRIMARY KEY, path text, state text NOT NULL, metadata jsonb NOT NULL, "
                f"embedding halfvec({self.made_by.width}) NOT NULL)"
            )
            self._run("CREATE INDEX ON {} USING hnsw (embedding halfvec_ip_ops)")
            self._comment_with(json.dumps(self.made_by.to_dict()))
            return
        try:
            maker = ModelName(**json.loads(comment))
        except (ValueError, TypeError):
            raise ValueError(f"The table {self.name!r} is there and is none of ours: name another.") from None
        self.made_by.check_made(maker, f"the table {self.name!r}")

    def known(self) -> dict[str, tuple[str | None, str]]:
        """Path and state by id."""
        rows = self._run("SELECT id, path, state FROM {}").fetchall()
        return {name: (path, state) for name, path, state in rows}

    def vectors(self, ids: list[str]) -> dict[str, np.ndarray]:
        """By id."""
        from pgvector.psycopg import register_vector

        register_vector(self.connection)
        rows = self._run("SELECT id, embedding FROM {} WHERE id = ANY(%s)", [ids]).fetchall()
        return {name: vector.to_numpy() for name, vector in rows}

    def write(self, gone: list[str], rows: pa.Table) -> None:
        """Delete and upsert."""
        self._run("DELETE FROM {} WHERE id = ANY(%s)", [gone])
        self._run("CREATE TEMPORARY TABLE incoming (LIKE {} INCLUDING DEFAULTS) ON COMMIT DROP")
        for first in range(0, len(rows), BLOCK_ROWS):
            self._copy(rows.slice(first, BLOCK_ROWS))
        changes = ", ".join(f"{name} = EXCLUDED.{name}" for name in COPIED[1:])
        self._run(f"INSERT INTO {{}} SELECT * FROM incoming ON CONFLICT (id) DO UPDATE SET {changes}")

    def _copy(self, rows: pa.Table) -> None:
        from pgvector import HalfVector
        from pgvector.psycopg import register_vector
        from psycopg.types.json import Jsonb, set_json_dumps

        register_vector(self.connection)
        set_json_dumps(lambda value: json.dumps(value, default=str), self.connection)
        metadata = [name for name in rows.column_names if name not in OWN_COLUMNS]
        vectors = Rows(rows).vectors(np.arange(len(rows))).astype(np.float16)
        described = Rows(rows).describe(np.arange(len(rows)))
        with self.connection.cursor().copy(
            f"COPY incoming ({', '.join(COPIED)}) FROM STDIN WITH (FORMAT BINARY)"
        ) as copy:
            copy.set_types(["text", "text", "text", "jsonb", "halfvec"])
            for values, vector in zip(described, vectors, strict=True):
                extra = Jsonb({name: values[name] for name in metadata})
                copy.write_row((values["id"], values["path"], values["state"], extra, HalfVector(vector)))

    def _run(self, statement: str, values: Any = None) -> Any:
        from psycopg import sql

        return self.connection.execute(sql.SQL(statement).format(self.quoted), values)  # type: ignore[arg-type]

    def _comment(self) -> str | None:
        """The table's comment; None where there is no table."""
        found = self._run("SELECT to_regclass(%s), obj_description(to_regclass(%s))", [self._regclass()] * 2)
        table, comment = found.fetchone()
        return None if table is None else comment or ""

    def _comment_with(self, text: str) -> None:
        from psycopg import sql

        statement = sql.SQL("COMMENT ON TABLE {} IS {}").format(self.quoted, sql.Literal(text))
        self.connection.execute(statement)

    def _regclass(self) -> str:
        return self.quoted.as_string(self.connection)

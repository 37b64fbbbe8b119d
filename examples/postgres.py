"""Bring a PostgreSQL table with pgvector in line with the vectors that `hf-customclip embed` wrote.

    hf-customclip embed outputs/sample my-images/ vectors.parquet
    python examples/postgres.py vectors.parquet postgresql://me@host/shop [TABLE]

    CREATE TABLE images (id text PRIMARY KEY, path text, state text, metadata jsonb, embedding halfvec(512))

In one transaction; only what has changed is written. A query's vector comes from `encode_texts`, and

    SELECT id, path, -(embedding <#> %s) AS score FROM images ORDER BY embedding <#> %s LIMIT 10

gives the nearest images; conditions on `metadata` go into WHERE. The model stands in the table's comment. Needs:
pip install pgvector 'psycopg[binary]'
"""

import json
import sys

import psycopg
import pyarrow.parquet as pq
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.types.json import Jsonb

OWN = ("id", "path", "state", "vector")
COLUMNS = "(id text PRIMARY KEY, path text, state text, metadata jsonb, embedding halfvec({width}))"


def main(file: str, url: str, table: str = "images") -> None:
    """Write what is new or changed, delete what is gone."""
    vectors = pq.ParquetFile(file)
    model = json.loads(vectors.schema_arrow.metadata[b"hf_customclip_model"])
    with psycopg.connect(url) as connection:
        create(connection, table, model)
        known = dict(
            run(connection, "SELECT id, concat(coalesce(path, 'None'), ' ', state) FROM {}", table).fetchall()
        )
        present, written = set(), 0
        for batch in vectors.iter_batches(batch_size=10_000):
            rows = batch.to_pylist()
            present |= {row["id"] for row in rows}
            changed = [row for row in rows if known.get(row["id"]) != f"{row['path']} {row['state']}"]
            write(connection, table, changed)
            written += len(changed)
        gone = [name for name in known if name not in present]
        run(connection, "DELETE FROM {} WHERE id = ANY(%s)", table, [gone])
    print(f"{written} written, {len(gone)} deleted, {len(present) - written} unchanged")


def create(connection: psycopg.Connection, table: str, model: dict) -> None:
    """Make the table if it is not there, and check that it holds this model's vectors."""
    quoted = sql.Identifier(table).as_string(connection)
    statement = "SELECT to_regclass(%s), obj_description(to_regclass(%s))"
    there, comment = connection.execute(statement, [quoted, quoted]).fetchone()
    if there is None:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        run(connection, "CREATE TABLE {} " + COLUMNS.replace("{width}", str(model["width"])), table)
        run(connection, "CREATE INDEX ON {} USING hnsw (embedding halfvec_ip_ops)", table)
        comment = json.dumps(model)
        statement = sql.SQL("COMMENT ON TABLE {} IS {}")
        connection.execute(statement.format(sql.Identifier(table), sql.Literal(comment)))
    if not comment or json.loads(comment).get("digest") != model["digest"]:
        raise SystemExit(f"error: the table {table!r} is there and holds no vectors of {model['name']}.")
    register_vector(connection)


def write(connection: psycopg.Connection, table: str, rows: list[dict]) -> None:
    """Add rows, in the place of those with the same id."""
    statement = (
        "INSERT INTO {} VALUES (%s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE SET path = EXCLUDED.path, "
        "state = EXCLUDED.state, metadata = EXCLUDED.metadata, embedding = EXCLUDED.embedding"
    )
    values = []
    for row in rows:
        metadata = {name: value for name, value in row.items() if name not in OWN}
        embedding = HalfVector(row["vector"])
        values.append((row["id"], row["path"], row["state"], Jsonb(metadata), embedding))
    with connection.cursor() as cursor:
        cursor.executemany(sql.SQL(statement).format(sql.Identifier(table)), values)


def run(connection: psycopg.Connection, statement: str, table: str, values: list | None = None):
    """Execute a statement about the table."""
    return connection.execute(sql.SQL(statement).format(sql.Identifier(table)), values)


if __name__ == "__main__":
    main(*sys.argv[1:])

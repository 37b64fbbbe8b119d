"""Pins, with the border to large collections drawn at 1,000 rows: the approximate search finds what it says it
finds, in the exact order, and never what was removed or filtered out; rows that were added, replaced or removed
since the cells were made are found or not as in a small index; saved and loaded it answers the same."""

import numpy as np
import pytest
from search.vectors import brute_force, rows_of, table_of, unit_vectors

from hf_customclip.search import files
from hf_customclip.search import index as index_module
from hf_customclip.search.encoder import ModelName
from hf_customclip.search.index import ImageIndex
from hf_customclip.search.neighbours import Neighbours

pytest.importorskip("faiss")
# Other queries than those that the cells were measured with, and only 60 of them.
MARGIN = 0.05
MADE_BY, COUNT, WIDTH = ModelName("", "0" * 32, 48), 6000, 48


@pytest.fixture
def clustered():
    """300 clusters, and queries of which each is half a vector and half a random direction."""
    random = np.random.default_rng(0)
    vectors = random.standard_normal((300, WIDTH)).repeat(COUNT // 300, 0)
    vectors += 0.7 * random.standard_normal((COUNT, WIDTH))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    queries = vectors[::100] + unit_vectors(60, WIDTH, seed=1)
    return vectors.astype(np.float16), (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(
        np.float32
    )


@pytest.fixture
def large(clustered, monkeypatch):
    monkeypatch.setattr(index_module, "EXACT_ROWS", 1000)
    groups = ["even" if n % 2 == 0 else "odd" for n in range(COUNT)]
    index = ImageIndex(None, MADE_BY, rows_of(range(COUNT), clustered[0], group=groups))
    index._settle()
    assert index.recall is not None
    return index


def recall(vectors, queries, found, allowed=None):
    right = [brute_force(vectors, query, 10, allowed) for query in queries]
    return np.mean([len(set(r) & set(f.tolist())) / 10 for r, f in zip(right, found, strict=True)])


def test_recall_is_what_it_says(large, clustered):
    vectors, queries = clustered
    scores, found = large.nearest(queries, 10)
    assert large.recall >= 0.95
    assert recall(vectors, queries, found) >= large.recall - MARGIN
    # Fewer than all cells, or nothing would be approximate here.
    assert large._neighbours.cells < large._neighbours._ivf().nlist / 2
    for line, values, query in zip(found, scores, queries, strict=True):
        assert values == pytest.approx(vectors[line].astype(np.float64) @ query, abs=1e-5)
        assert np.all(np.diff(values) <= 0) and len(set(line.tolist())) == 10
    assert recall(vectors, queries, large.nearest(queries, 10, exact=True)[1]) == 1


def test_filters_and_removed_rows(large, clustered):
    vectors, queries = clustered
    _, found = large.nearest(queries, 10, filter={"group": "even"})
    assert np.all(found % 2 == 0)
    assert recall(vectors, queries, found, np.arange(COUNT) % 2 == 0) >= large.recall - MARGIN
    gone = np.unique(large.nearest(queries, 3)[1])
    assert large.remove(map(str, gone)) == len(gone)
    _, found = large.nearest(queries, 10)
    assert not np.isin(found, gone).any()
    assert recall(vectors, queries, found, ~np.isin(np.arange(COUNT), gone)) >= large.recall - MARGIN


def test_a_filter_that_leaves_little_is_exact(large, clustered):
    vectors, queries = clustered
    _, found = large.nearest(queries, 10, filter={"id": [str(n) for n in range(0, 300, 3)]})
    allowed = (np.arange(COUNT) < 300) & (np.arange(COUNT) % 3 == 0)
    assert recall(vectors, queries, found, allowed) == 1


def test_later_rows_are_found_at_once_and_put_in_when_they_are_many(large, clustered):
    _, queries = clustered
    cells = large._neighbours
    more = unit_vectors(500, WIDTH, seed=5)
    more[:60] = queries
    large._rows = large.rows.with_rows(table_of(range(COUNT - 100, COUNT + 400), more))
    large._settle()
    assert large._neighbours is cells and cells.count == COUNT
    _, found = large.nearest(queries, 10)
    assert found[:, 0].tolist() == list(range(COUNT, COUNT + 60))
    assert not ((found >= COUNT - 100) & (found < COUNT)).any()  # those were replaced
    large._rows = large.rows.with_rows(table_of(range(9000, 9600), unit_vectors(600, WIDTH, seed=6)))
    large._settle()
    assert cells.count == COUNT + 1100  # nothing was trained again
    assert large.nearest(queries, 10)[1][:, 0].tolist() == list(range(COUNT, COUNT + 60))


def test_saved_loaded_and_extended(large, clustered, tmp_path):
    _, queries = clustered
    large._rows = files.write(tmp_path, MADE_BY, large.rows, large._neighbours)
    saved = files.read(tmp_path)
    assert saved.neighbours.recall == large.recall
    loaded = ImageIndex(None, MADE_BY, saved.rows, saved.neighbours)
    assert np.array_equal(loaded.nearest(queries, 10)[1], large.nearest(queries, 10)[1])
    (file,) = tmp_path.glob("neighbours-*")
    loaded._rows = loaded.rows.with_rows(table_of(range(COUNT, COUNT + 1500), unit_vectors(1500, WIDTH, 7)))
    loaded._settle()
    files.write(tmp_path, MADE_BY, loaded.rows, loaded._neighbours)
    assert not file.exists() and files.read(tmp_path).neighbours.count == COUNT + 1500


def test_when_most_is_gone_it_is_small_again(large, clustered):
    large.remove(map(str, range(100, COUNT)))
    large._settle()
    assert large.recall is None and len(large.rows.table) == 100
    assert large.nearest(clustered[1], 1)[1].max() < 100


def test_training_is_the_same_twice(clustered):
    rows = rows_of(range(COUNT), clustered[0])
    one, two = Neighbours.train(rows), Neighbours.train(rows)
    assert (one.cells, one.recall) == (two.cells, two.recall)


def test_without_faiss_it_says_what_to_install(clustered, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'hf-customclip\[search\]'"):
        Neighbours.train(rows_of(range(COUNT), clustered[0]))


def test_a_damaged_file_of_cells_is_said(large, tmp_path):
    files.write(tmp_path, MADE_BY, large.rows, large._neighbours)
    (file,) = tmp_path.glob("neighbours-*")
    file.write_bytes(b"no FAISS index")
    with pytest.raises(ValueError, match="is damaged"):
        files.read(tmp_path)

"""Pins: exact search gives what comparing everything in float64 gives, in order; whatever is added, replaced,
removed and filtered, a table holds what a dictionary would; damage is told from an index. With the border to large
collections drawn at 1,000 rows: approximate search finds what it says it finds, never what was removed or filtered
out, and rows added since; opened anew it answers the same."""

import datetime
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("lancedb")
from search.vectors import brute_force, empty_table, rows_of, unit_vectors

from hf_customclip.search import table as table_module
from hf_customclip.search.approximate import CALIBRATION_QUERIES, approximate_settings, check_compression
from hf_customclip.search.table import VectorTable

COUNT, WIDTH = 6000, 48
# Other queries than those that the cells were measured with, and only 60 of them.
MARGIN = 0.05


def ids_of(found):
    return [row["id"] for row in found]


# ---- Exact ----


def test_exact_search_is_brute_force():
    vectors, table = unit_vectors(500), empty_table()
    table.put(rows_of([f"{n:03}" for n in range(500)], vectors, year=np.arange(500) % 7))
    queries = unit_vectors(20, seed=1).astype(np.float32)
    for query, found in zip(queries, table.nearest(queries, 9), strict=True):
        assert [int(name) for name in ids_of(found)] == brute_force(vectors, query, 9)
        scores = [row["score"] for row in found]
        assert scores == pytest.approx([vectors[int(name)] @ query for name in ids_of(found)], abs=1e-3)
    allowed = np.isin(np.arange(500) % 7, (2, 5))
    for query, found in zip(queries, table.nearest(queries, 9, {"year": [2, 5]}), strict=True):
        assert [int(name) for name in ids_of(found)] == brute_force(vectors, query, 9, allowed)
    assert len(table.nearest(queries[:1], 1000)[0]) == 500


def test_of_equal_scores_the_lower_id_comes_first():
    table = empty_table()
    table.put(rows_of("cab", np.repeat(unit_vectors(1), 3, axis=0)))
    assert ids_of(table.nearest(unit_vectors(1).astype(np.float32), 3)[0]) == ["a", "b", "c"]


def test_a_bias_orders_and_is_no_part_of_the_score():
    vectors = unit_vectors(3)
    biased = np.concatenate([vectors, [[-2.0], [0.0], [-2.0]]], axis=1)
    table = empty_table(bias=True)
    table.put(rows_of(range(3), biased))
    query = np.append(vectors[0].astype(np.float32), 1.0)
    best = table.nearest(query[None], 3)[0]
    assert ids_of(best)[0] == "1" and best[0]["score"] == pytest.approx(vectors[1] @ vectors[0], abs=1e-3)
    query[-1] = 0
    assert ids_of(table.nearest(query[None], 1)[0]) == ["0"]


# ---- Changing ----

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.integers(0, 12), min_size=1, unique=True)),
        st.tuples(st.just("remove"), st.lists(st.integers(0, 12))),
        st.tuples(st.just("settle"), st.none()),
    ),
    max_size=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS)
def test_a_table_holds_what_a_dictionary_would(steps):
    table, right = empty_table(), {}
    for number, (what, names) in enumerate(steps):
        if what == "put":
            vectors = unit_vectors(len(names), seed=number)
            table.put(rows_of(names, vectors, step=[number] * len(names)))
            right |= {str(name): (number, vector) for name, vector in zip(names, vectors, strict=True)}
        elif what == "remove":
            gone = {str(name) for name in names} & set(right)
            assert table.remove(map(str, names)) == len(gone)
            right = {name: value for name, value in right.items() if name not in gone}
        else:
            table.settle("int8")
        assert sorted(table.states()) == sorted(right) and len(table) == len(right)
    if right:
        query = unit_vectors(1, seed=99).astype(np.float32)
        found = table.nearest(query, 20)[0]
        assert {row["id"]: row["step"] for row in found} == {name: step for name, (step, _) in right.items()}
        for row in found:
            assert row["score"] == pytest.approx(float(right[row["id"]][1] @ query[0]), abs=1e-3)


def test_what_moved_keeps_its_vector():
    table = empty_table()
    table.put(rows_of("ab", unit_vectors(2)))
    table.move({"a": "elsewhere/a.png"})
    assert table.states() == {"a": ("elsewhere/a.png", "a"), "b": (None, "b")}
    assert ids_of(table.nearest(unit_vectors(1).astype(np.float32), 1)[0]) == ["a"]


def test_filters():
    table = empty_table()
    metadata = {"Year": [1, 2, None], "brand name": ["o'x", "b", "c"], "old": [True, False, True]}
    metadata["day"] = [datetime.date(2020, 1, day) for day in (1, 2, 3)]
    table.put(rows_of("abc", unit_vectors(3), **metadata))

    def kept(condition):
        return sorted(ids_of(table.nearest(unit_vectors(1).astype(np.float32), 9, condition)[0]))

    assert kept({"Year": 1}) == ["a"] and kept({"Year": [1, None]}) == ["a", "c"] and kept({"Year": []}) == []
    assert kept({"brand name": "o'x"}) == ["a"] and kept({"old": True, "id": ["b", "c"]}) == ["c"]
    assert kept({"Year": np.int64(2)}) == ["b"] and kept({"day": [datetime.date(2020, 1, 3)]}) == ["c"]
    assert kept("Year >= 2 OR `brand name` = 'c'") == ["b", "c"] and kept({}) == ["a", "b", "c"]
    known = "no column 'colour' to filter by, only id, path, Year, brand name, old, day"
    with pytest.raises(ValueError, match=known):
        kept({"colour": "red"})
    for wrong in ({"Year": "old"}, "Year ==== 1", "colour = 1"):
        with pytest.raises(ValueError, match=r"filter .* does not fit the columns"):
            kept(wrong)


def test_what_is_no_index(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no index in"):
        VectorTable.open(tmp_path)
    empty_table(tmp_path / "index").put(rows_of("ab", unit_vectors(2)))
    for file in (tmp_path / "index").rglob("*.manifest"):
        file.write_bytes(b"x")
    with pytest.raises(ValueError, match="damaged"):
        VectorTable.open(tmp_path / "index")


# ---- Approximate ----


@pytest.fixture(scope="module", params=["int8", "binary", "none"])
def large(request, tmp_path_factory):
    """A table of vectors in clusters, its directory, the vectors, and queries that lie off them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_module, "EXACT_ROWS", 1000)
        random = np.random.default_rng(0)
        centres = unit_vectors(60, WIDTH).astype(np.float32)
        vectors = centres[random.integers(60, size=COUNT)] + 0.1 * random.standard_normal((COUNT, WIDTH))
        vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
        directory = tmp_path_factory.mktemp("large")
        table = empty_table(directory, WIDTH)
        table.put(rows_of([f"{n:05}" for n in range(COUNT)], vectors, year=np.arange(COUNT) % 50))
        table.settle(request.param)
        queries = unit_vectors(60, WIDTH, seed=5).astype(np.float32) + vectors[:60]
        yield table, directory, vectors, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def recall(table, vectors, queries, allowed=None, condition=None, **options):
    found = table.nearest(queries, 10, condition, **options)
    right = [{f"{n:05}" for n in brute_force(vectors, query, 10, allowed)} for query in queries]
    return np.mean(
        [len(one & {row["id"] for row in rows}) / 10 for one, rows in zip(right, found, strict=True)]
    )


def test_approximate_search_finds_what_it_states(large):
    table, directory, vectors, queries = large
    stated = approximate_settings(table.table)
    assert stated["recall"] >= 0.95 and stated["effort"] >= 1 and stated["rows"] == COUNT
    assert recall(table, vectors, queries) >= stated["recall"] - MARGIN
    assert recall(table, vectors, queries, exact=True) == 1
    half = np.arange(COUNT) % 50 < 25
    assert recall(table, vectors, queries, half, {"year": list(range(25))}) >= stated["recall"] - MARGIN
    few = np.arange(COUNT) % 50 == 7  # compared exactly
    assert recall(table, vectors, queries, few, {"year": 7}) == 1
    again = VectorTable.open(directory)
    assert again.nearest(queries, 10) == table.nearest(queries, 10)


def test_how_far_to_look_is_measured_with_captions_where_there_are_any(monkeypatch, tmp_path):
    monkeypatch.setattr(table_module, "EXACT_ROWS", 1000)
    vectors, table = unit_vectors(3000, WIDTH), empty_table(tmp_path, WIDTH)
    table.put(rows_of([f"{n:05}" for n in range(3000)], vectors))
    captions = unit_vectors(CALIBRATION_QUERIES, WIDTH, seed=6).astype(np.float32)
    table.settle("int8", lambda: captions)
    stated = approximate_settings(table.table)["recall"]
    assert stated == pytest.approx(recall(table, vectors, captions), abs=0.002)


def test_what_is_added_and_removed_after_the_cells_were_made(large, tmp_path):
    shutil.copytree(large[1], tmp_path / "copy")
    table, queries = VectorTable.open(tmp_path / "copy"), large[3]
    table.put(rows_of(["new"], queries[:1], year=[1]))
    best = ids_of(table.nearest(queries[:1], 3)[0])
    assert best[0] == "new"
    table.remove([best[1]])
    table.put(rows_of([best[2]], -queries[:1], year=[1]))
    table.settle("int8")
    found = ids_of(table.nearest(queries[:1], 10)[0])
    assert found[0] == "new" and best[1] not in found and best[2] not in found and len(found) == 10


def test_compressions_by_name():
    with pytest.raises(ValueError, match="int8, binary, none, not 'int4'"):
        check_compression("int4")

"""Pins: exact search gives what comparing everything in float64 gives, in order; whatever is added, replaced,
removed, filtered, saved and loaded, an index holds what a dictionary would; files are written once, and what an
older manifest named is read until the new one is there; damage and kills are told apart from an index."""

import json

import numpy as np
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from search.vectors import brute_force, rows_of, table_of, unit_vectors

from hf_customclip.search import files
from hf_customclip.search.encoder import ModelName
from hf_customclip.search.rows import Rows, best, empty_table

MADE_BY = ModelName("some/model", "0" * 32, 4)


def test_nearest_is_brute_force_in_order():
    vectors, queries = unit_vectors(3000), unit_vectors(20, seed=1)
    rows = rows_of(range(3000), vectors)
    scores, found = rows.nearest(queries, 10, ~rows.removed)
    for query, line, values in zip(queries, found, scores, strict=True):
        assert line.tolist() == brute_force(vectors, query, 10)
        assert values == pytest.approx(vectors[line].astype(float) @ query.astype(float), abs=1e-5)


def test_blocks_and_gathering_across_them(monkeypatch):
    monkeypatch.setattr("hf_customclip.search.rows.BLOCK_ROWS", 7)
    vectors = unit_vectors(50)
    rows = rows_of(range(50), vectors)
    assert len(rows.blocks) == 8
    wanted = np.array([49, 0, 6, 7, 7, 13])
    assert np.array_equal(rows.vectors(wanted), vectors[wanted])
    _, found = rows.nearest(unit_vectors(3, seed=1), 50, ~rows.removed)
    assert found[2].tolist() == brute_force(vectors, unit_vectors(3, seed=1)[2], 50)


def test_equal_scores_come_in_the_order_of_rows():
    vectors = np.repeat(unit_vectors(1), 100, axis=0)
    _, found = rows_of(range(100), vectors).nearest(vectors[:1], 5, np.arange(100) % 2 == 1)
    assert found.tolist() == [[1, 3, 5, 7, 9]]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=60), st.integers(1, 12))
def test_best_of_many_ties(values, k):
    scores, rows = np.array([values], dtype=np.float32), np.arange(len(values))[None]
    right = sorted(range(len(values)), key=lambda n: (-values[n], n))[:k]
    assert best(scores, rows, k)[1].tolist() == [right]


GROUPS = ("a", "b", None)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.dictionaries(st.integers(0, 15), st.sampled_from(GROUPS), max_size=8)),
        st.tuples(st.just("remove"), st.sets(st.integers(0, 20), max_size=8)),
        st.tuples(st.sampled_from(["save", "compact"]), st.none()),
    ),
    max_size=12,
)


@given(steps=STEPS, wanted=st.sampled_from(["a", "b", ["a", "b"], None]))
@settings(max_examples=60, deadline=None)
def test_an_index_holds_what_a_dictionary_would(tmp_path_factory, steps, wanted):
    folder = tmp_path_factory.mktemp("index")
    rows, right = Rows(empty_table(4)), {}
    for seed, (step, what) in enumerate(steps):
        if step == "add":
            vectors = unit_vectors(len(what), 4, seed).reshape(-1, 4)
            right |= {name: (v, group) for (name, group), v in zip(what.items(), vectors, strict=True)}
            rows = rows.with_rows(table_of(what, vectors, group=list(what.values())))
        elif step == "remove":
            right = {name: value for name, value in right.items() if name not in what}
            rows = rows.without(map(str, what))
        elif step == "save":
            rows = files.write(folder, MADE_BY, rows, None)
        else:
            rows = rows.compacted()
    assert len(rows) == len(right) and set(rows.place) == {str(name) for name in right}
    if not right:
        return
    allowed = {"a", "b", None} if wanted is None else set(wanted)
    chosen = rows.chosen(None if wanted is None else {"group": wanted})
    query = unit_vectors(1, 4, seed=99)
    scores, found = rows.nearest(query, 5, chosen)
    reference = {
        str(n): float(v.astype(float) @ query[0].astype(float)) for n, (v, g) in right.items() if g in allowed
    }
    names = [values["id"] for values in rows.describe(found[0])]
    assert sorted(reference.values(), reverse=True)[:5] == pytest.approx(scores[0].tolist(), abs=1e-5)
    assert [reference[name] for name in names] == pytest.approx(scores[0].tolist(), abs=1e-5)
    assert len(set(names)) == len(names)


def test_filters():
    rows = rows_of(range(4), unit_vectors(4), year=[2019, 2020, None, 2022], kind=["x", "y", "x", "y"])

    def chosen(condition):
        return np.flatnonzero(rows.chosen(condition)).tolist()

    assert chosen({"kind": "x"}) == [0, 2]
    assert chosen({"kind": "y", "year": [2020, 2021]}) == [1]
    assert chosen(pc.field("year") > 2019) == [1, 3]
    assert chosen({"kind": "z"}) == []
    nothing = rows_of(range(2), unit_vectors(2), note=[None, None])
    assert not nothing.chosen({"note": ["x", "y"]}).any() and nothing.chosen({"note": ["x", None]}).all()
    assert not nothing.chosen({"note": "x"}).any()
    with pytest.raises(ValueError, match="no column 'size' to filter by, only id, path, state, year, kind"):
        chosen({"size": 3})
    with pytest.raises(ValueError, match="does not fit the columns"):
        chosen(pc.field("kind") > 3)
    with pytest.raises(ValueError, match="does not fit the columns"):
        chosen({"kind": ["x", 3]})
    with pytest.raises(ValueError, match="does not fit the columns"):
        chosen(pc.field("year"))  # nothing that holds or does not


def test_saving_adds_files_and_deletes_what_is_no_longer_named(tmp_path):
    rows = files.write(tmp_path, MADE_BY, rows_of(range(5), unit_vectors(5, 4)), None)
    (first,) = tmp_path.glob("rows-*")
    written = first.stat().st_mtime_ns
    rows = rows.with_rows(table_of([7], unit_vectors(1, 4))).without(["0"])
    rows = files.write(tmp_path, MADE_BY, rows, None)
    assert first.stat().st_mtime_ns == written and len(list(tmp_path.glob("rows-*"))) == 2
    assert len(list(tmp_path.glob("removed-*"))) == 1
    rows = files.write(tmp_path, MADE_BY, rows.compacted(), None)
    assert not first.exists() and len(list(tmp_path.glob("rows-*"))) == 1 and len(rows) == 5
    assert not list(tmp_path.glob("removed-*"))


def test_files_that_a_kill_left_are_not_part_of_the_index(tmp_path):
    files.write(tmp_path, MADE_BY, rows_of(range(5), unit_vectors(5, 4)), None)
    (tmp_path / "rows-0123.arrow").write_bytes(b"half")
    (tmp_path / "index.json.0f.tmp").write_bytes(b"{")
    assert len(files.read(tmp_path).rows) == 5
    files.write(tmp_path, MADE_BY, files.read(tmp_path).rows, None)
    assert not (tmp_path / "rows-0123.arrow").exists()


def test_an_index_that_is_open_outlives_its_files(tmp_path):
    vectors = unit_vectors(5, 4)
    files.write(tmp_path, MADE_BY, rows_of(range(5), vectors), None)
    old = files.read(tmp_path).rows
    files.write(tmp_path, MADE_BY, old.without(["0", "1", "2"]).compacted(), None)
    assert np.array_equal(old.vectors(np.arange(5)), vectors)


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest"])
def test_damage_is_said_in_a_sentence(tmp_path, damage):
    files.write(tmp_path, MADE_BY, rows_of(range(5), unit_vectors(5, 4)), None)
    (file,) = tmp_path.glob("rows-*")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "gone":
        file.unlink()
    else:
        (tmp_path / files.MANIFEST).write_text("{")
    with pytest.raises(ValueError, match=r"is damaged.*delete it, and index the images again"):
        files.read(tmp_path)


def test_what_is_no_index_or_a_later_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no index in"):
        files.read(tmp_path)
    (tmp_path / files.MANIFEST).write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="later hf-customclip: upgrade"):
        files.read(tmp_path)

"""Pins: the index finds held-out images as often as evaluation says; words, images and both; each image once;
filters by metadata, of other types widened or refused; another model's vectors are refused in a sentence, wherever
they come from; what is saved, copied and loaded answers the same; what has not changed is not embedded again, and what
cannot be read is named."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, Features, Value, concatenate_datasets
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip import ImageIndex, load_model
from hf_customclip.evaluation import embed_dataset
from hf_customclip.inference import encode_images, encode_texts
from hf_customclip.inference.hubness import HubnessBank
from hf_customclip.search import embed_to_parquet

pytest.importorskip("lancedb")


def ids(results):
    return [result.id for result in results]


# ---- Searching ----


def test_finds_as_often_as_evaluation_says(made):
    data = tiny_dataset(256)
    index, embedded = ImageIndex.build(*made, data), embed_dataset(*made, data)
    captions = [caption for row in data["captions"] for caption in row]
    right = [
        str(image_id) for row, image_id in zip(data["captions"], data["image_id"], strict=True) for _ in row
    ]
    found = index.search(captions, 10)
    for k in (1, 5, 10):
        recall = np.mean([name in ids(results[:k]) for name, results in zip(right, found, strict=True)])
        # Two of 512: vectors are kept in 16 bits, and tiny towers put images closely together.
        assert recall == pytest.approx(embedded.metrics()[f"t2i_recall@{k}"], abs=2 / len(captions))


def test_words_image_and_both(made, tmp_path):
    data = tiny_dataset(32)
    index = ImageIndex.build(*made, data)
    image, words = data[5]["image"], "a small red circle on grey"
    image.save(tmp_path / "five.png")
    assert ids(index.search(image, 1)) == ids(index.search(tmp_path / "five.png", 1)) == ["5"]
    assert index.search(image, 1)[0].score == pytest.approx(1, abs=1e-3)
    text_embed, image_embed = encode_texts(*made, [words]), encode_images(*made, [image])
    vectors = encode_images(*made, data["image"])
    for query, vector in (
        (words, text_embed),
        (image, image_embed),
        ((words, image), F.normalize(text_embed + image_embed, dim=-1)),
    ):
        results = index.search(query, 32)
        scores = dict(zip(map(str, range(32)), (vectors @ vector[0]).tolist(), strict=True))
        assert {result.id: result.score for result in results} == pytest.approx(scores, abs=2e-3)
        assert results == sorted(results, key=lambda result: -result.score)
    queries = [words, image, (words, image)]
    assert [ids(found) for found in index.search(queries, 3)] == [
        ids(index.search(one, 3)) for one in queries
    ]


@pytest.mark.parametrize("query", [3, ("red",), ("red", "blue"), (Path("x"), "red"), None])
def test_what_is_no_query(made, query):
    index = ImageIndex.build(*made, tiny_dataset(2))
    with pytest.raises(TypeError, match="query"):
        index.search(query)


def test_every_image_once_also_of_several_rows(made):
    data = tiny_dataset(8)
    index = ImageIndex.build(*made, concatenate_datasets([data, data.select([3, 3])]))
    assert len(index) == 8
    assert sorted(ids(index.search("red", 100))) == [str(n) for n in range(8)]


def test_metadata_and_filters(made):
    data = tiny_dataset(32).add_column("year", list(range(2000, 2032)))
    index = ImageIndex.build(*made, data)
    found = index.search("a red square", 5, filter="year >= 2028")
    assert sorted(result.metadata["year"] for result in found) == [2028, 2029, 2030, 2031]
    assert found[0].metadata["captions"] == data[int(found[0].id)]["captions"]
    assert ids(index.search("red", 5, filter={"year": [2003, 2004], "id": "4"})) == ["4"]
    assert index.search("red", 5, filter={"year": 1999}) == []


def test_add_and_remove(made, seen):
    data = tiny_dataset(16)
    index = ImageIndex.build(*made, data.select(range(8)))
    index.add(data.select(range(6, 16)))
    assert seen[0] == 16 and len(index) == 16  # two were there already
    assert index.remove(["3", "5", "nobody"]) == 2
    assert "3" not in index and "4" in index and len(index) == 14
    everything = ids(index.search(data[3]["image"], 100))
    assert len(everything) == 14 and "3" not in everything


def with_columns(data, columns, features=None):
    return concatenate_datasets([data, Dataset.from_dict(columns, features=features)], axis=1)


def test_metadata_that_do_not_fit(made):
    data, none = tiny_dataset(4), Features({"price": Value("int64"), "colour": Value("null")})
    index = ImageIndex.build(*made, with_columns(data.select([0]), {"price": [1], "colour": [None]}, none))
    index.add(data.select([1]))  # without a price
    index.add(with_columns(data.select([2]), {"price": [0.5], "colour": ["red"]}))
    index.add(with_columns(data.select([3]), {"price": [7]}))
    found = {
        result.id: tuple(result.metadata[name] for name in ("price", "colour"))
        for result in index.search("red")
    }
    assert found == {"0": (1, None), "1": (None, None), "2": (0.5, "red"), "3": (7, None)}
    with pytest.raises(ValueError, match="metadata do not fit those that are there"):
        index.add(data.select([3]).add_column("price", ["cheap"]))


def test_a_models_hubness_bank_ranks_words_and_leaves_scores(made, tmp_path):
    data = tiny_dataset(32)
    images = encode_images(*made, data["image"])
    texts = encode_texts(*made, [captions[0] for captions in data["captions"]])
    for part in made:
        part.save_pretrained(tmp_path / "model")
    HubnessBank(images, texts).save(tmp_path / "model")
    model = type(made[0]).from_pretrained(tmp_path / "model")
    index = ImageIndex.build(model, made[1], data, directory=tmp_path / "index")
    plain = ImageIndex.build(model, made[1], data, hubness_correction=False)
    cosines = images @ texts[7]
    right = (cosines - (images @ texts.T).topk(10, dim=1).values.mean(1) / 2).argsort(descending=True)
    for found in (index, ImageIndex.load(tmp_path / "index")):
        results = found.search(data["captions"][7][0], 5)
        assert ids(results) == [str(n) for n in right[:5].tolist()]
        assert [r.score for r in results] == pytest.approx(cosines[right[:5]].tolist(), abs=2e-3)
    assert ids(plain.search(data["captions"][7][0], 5)) != ids(results)
    image = data[3]["image"]
    assert ids(index.search(image, 5)) == ids(plain.search(image, 5))


def test_images_without_a_file_show_a_thumbnail(made, write_images, tmp_path):
    index = ImageIndex.build(*made, tiny_dataset(4))
    assert index.search("red", 1)[0].path is None and index.image("nobody") is None
    difference = np.asarray(index.image("2"), float) - np.asarray(tiny_dataset(4)[2]["image"], float)
    assert np.abs(difference).mean() < 6
    write_images(tmp_path, range(2))
    index = ImageIndex.build(*made, tmp_path)
    assert index.table.row("0.png")["thumbnail"] is None and index.image("0.png").size == (40, 32)


# ---- Keeping ----


def test_saved_and_loaded_answers_the_same(made, tmp_path):
    index = ImageIndex.build(*made, tiny_dataset(32))
    index.remove(["7"])
    index.save(tmp_path / "index")
    loaded = ImageIndex.load(tmp_path / "index", *made)
    queries = ["red", "a small blue cross", tiny_dataset(9)[8]["image"]]
    assert loaded.search(queries, 5) == index.search(queries, 5)
    shutil.copytree(tmp_path / "index", tmp_path / "copy")
    copy = ImageIndex.load(tmp_path / "copy", *made)
    copy.remove(["8"])
    assert copy.search(queries, 40) != index.search(queries, 40) and len(index) == 31 == len(copy) + 1


def test_the_index_knows_where_its_model_is(made, saved_model, tmp_path):
    index = ImageIndex.build(*load_model(saved_model), tiny_dataset(4), directory=tmp_path / "index")
    assert ImageIndex.load(tmp_path / "index").search("red") == index.search("red")
    ImageIndex.build(*made, tiny_dataset(4)).save(tmp_path / "nameless")
    with pytest.raises(ValueError, match="made by a model that had not been saved: pass model and processor"):
        ImageIndex.load(tmp_path / "nameless")


def test_another_models_vectors_are_refused(made, tmp_path):
    data, directory = tiny_dataset(4), tmp_path / "index"
    ImageIndex.build(*made, data, directory=directory)
    embed_to_parquet(*made, data, tmp_path / "vectors.parquet")
    other, elsewhere = (tiny_model(), made[1]), (made[0], tiny_processor())
    with torch.no_grad():
        next(other[0].visual_projection.parameters())[0, 0] += 1e-3
    elsewhere[1].image_processor.image_mean = [0.1, 0.2, 0.3]  # images are prepared in another way
    said = "made by .*, not by .*, and vectors of two models cannot be compared"
    for refused in (
        lambda: ImageIndex.load(directory, *other),
        lambda: ImageIndex.build(*other, data, directory=directory),
        lambda: ImageIndex.build(*other, data).save(directory),
        lambda: embed_to_parquet(*other, data, tmp_path / "vectors.parquet"),
        lambda: ImageIndex.load(directory, *elsewhere),
    ):
        with pytest.raises(ValueError, match=said):
            refused()


# ---- Folders ----


def test_only_what_changed_is_embedded_again(made, seen, write_images, tmp_path):
    images, directory = tmp_path / "images", tmp_path / "index"
    write_images(images, range(20))
    (images / "half.png").write_bytes((images / "0.png").read_bytes()[:60])
    (images / "empty.jpg").touch()
    index = ImageIndex.build(*made, images, directory=directory)
    assert seen[0] == 20 and set(index.changes.unreadable) == {"half.png", "empty.jpg"}
    said = "20 added, 0 changed, 0 unchanged, 0 removed; 2 cannot be read: empty.jpg ("
    assert str(index.changes).startswith(said)
    again = ImageIndex.build(*made, images, directory=directory)
    assert seen[0] == 20 and again.changes.unchanged == 20

    (images / "3.png").unlink()
    write_images(tmp_path / "new", [40, 41])
    os.replace(tmp_path / "new" / "40.png", images / "4.png")
    (images / "sub").mkdir()
    os.replace(tmp_path / "new" / "41.png", images / "sub" / "41.png")
    third = ImageIndex.build(*made, images, directory=directory)
    assert seen[0] == 22
    changes = third.changes
    assert (changes.added, changes.changed, changes.unchanged, changes.removed) == (1, 1, 18, 1)
    assert sorted(third.ids) == sorted([f"{n}.png" for n in range(20) if n != 3] + ["sub/41.png"])
    found = ImageIndex.load(directory, *made).search(tiny_dataset(64)[40]["image"], 1)[0]
    assert found.id == "4.png" and found.path == str(images / "4.png")


def test_a_folder_that_moved_is_not_embedded_again(made, seen, write_images, tmp_path):
    write_images(tmp_path / "here", range(4))
    ImageIndex.build(*made, tmp_path / "here", directory=tmp_path / "index")
    (tmp_path / "here").rename(tmp_path / "there")
    index = ImageIndex.build(*made, tmp_path / "there", directory=tmp_path / "index")
    assert seen[0] == 4
    assert {Path(result.path).parent for result in index.search("red")} == {tmp_path / "there"}


def test_metadata_beside_the_images(made, write_images, tmp_path):
    write_images(tmp_path, range(3))
    (tmp_path / "metadata.csv").write_text("file_name,price\n0.png,10\n2.png,30\n")
    index = ImageIndex.build(*made, tmp_path)
    prices = {result.id: result.metadata["price"] for result in index.search("red")}
    assert prices == {"0.png": 10, "1.png": None, "2.png": 30}
    assert ids(index.search("red", filter="price > 10")) == ["2.png"]
    (tmp_path / "metadata.csv").write_text("file_name,path\n0.png,10\n")
    with pytest.raises(ValueError, match=r"columns path of .* need other names"):
        ImageIndex.build(*made, tmp_path)


def test_sources_that_are_none(made, tmp_path):
    for images, error, said in (
        (tmp_path, ValueError, "holds no images"),
        (tmp_path / "nowhere", FileNotFoundError, "no folder of images"),
        ([tmp_path / "nowhere.png"], FileNotFoundError, "no image"),
        (
            tiny_dataset(2).remove_columns("image_id"),
            ValueError,
            "no column image_id; it has image, captions",
        ),
    ):
        with pytest.raises(error, match=said):
            ImageIndex.build(*made, images)


def test_parquet_is_cached_up_to_date(made, seen, tmp_path):
    import pyarrow.parquet as pq

    data, file = tiny_dataset(16), tmp_path / "vectors.parquet"
    assert embed_to_parquet(*made, data.select(range(12)), file).added == 12
    changes = embed_to_parquet(*made, data.select(range(4, 16)), file)
    assert (changes.added, changes.unchanged, changes.removed) == (4, 8, 4) and seen[0] == 16
    table = pq.read_table(file)
    assert table["id"].to_pylist() == [str(n) for n in range(4, 16)]
    vectors = np.stack(table["vector"].to_numpy())
    right = encode_images(*made, data.select(range(4, 16))["image"]).numpy()
    assert vectors == pytest.approx(right, abs=2e-3)
    assert os.listdir(tmp_path) == ["vectors.parquet"]
    (tmp_path / "other.parquet").write_bytes(b"not ours")
    with pytest.raises(ValueError, match="does not hold vectors of ours"):
        embed_to_parquet(*made, data, tmp_path / "other.parquet")


def test_an_index_of_cut_embeddings(made, saved_model, tmp_path):
    """A model's `truncate_dim` is the width of its index, which asks queries of the same width when loaded."""
    images, cut = tiny_dataset(8), load_model(saved_model, truncate_dim=6)
    index = ImageIndex.build(*cut, images, directory=tmp_path / "index")
    whole = encode_images(*made, images["image"][:]), encode_texts(*made, ["red"])
    vectors, query = (F.normalize(embeds[:, :6], dim=-1) for embeds in whole)
    scores = (vectors @ query.T)[:, 0]
    loaded = ImageIndex.load(tmp_path / "index")
    for found in (index.search("red", 8), loaded.search("red", 8)):
        assert [int(result.id) for result in found] == scores.argsort(descending=True).tolist()
        assert found[0].score == pytest.approx(scores.max().item(), abs=1e-3)
    with pytest.raises(ValueError, match=r"6 numbers.* 16.*--dim"):
        ImageIndex.load(tmp_path / "index", *made)
    with pytest.raises(ValueError, match="from 1 to 16"):
        load_model(saved_model, truncate_dim=17)

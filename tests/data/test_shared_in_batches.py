"""Pins: a batch says which captions are equal (case and blanks aside) and which images are of one group, with and
without cached features, as pairs and as images with their captions; data in which no two images share a caption say
nothing; the trainer's loss is the one that knows of them."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from tiny import tiny_dataset, tiny_model
from tiny_training import make_trainer

from hf_customclip.data.data_collator import ContrastiveCollator
from hf_customclip.data.pairs import CaptionTable, TrainingDataset

CAPTIONS = [["a red mug", "for coffee"], ["A  Red mug", "for tea"], ["a plate", "for soup"]]


@pytest.fixture
def shop():
    """Three images, the first two of one product with one title."""
    data = tiny_dataset(3).remove_columns("captions").add_column("captions", CAPTIONS)
    return data.add_column("group_id", ["mug", "mug", "plate"])


def features(shop):
    return {"image_features": torch.randn(3, 32), "text_features": torch.randn(6, 32)}


def test_equal_captions_and_groups_by_hand(shop):
    table = CaptionTable(shop)
    a, b, c, d, e, f = table.caption_ids.tolist()
    assert a == c and len({a, b, d, e, f}) == 5
    assert table.group_ids[0] == table.group_ids[1] != table.group_ids[2]


def test_nothing_is_said_where_nothing_is_shared():
    table = CaptionTable(tiny_dataset(4))
    assert table.group_ids is None
    unique = Dataset.from_dict({"image": [0, 1], "captions": [["x", "X "], ["y"]], "image_id": ["0", "1"]})
    assert CaptionTable(unique).caption_ids is None, "one image may say a thing twice"


def test_a_batch_of_images_with_their_captions(shop):
    data = TrainingDataset(shop, **features(shop))
    batch = data.__getitems__([(0, (2, 3)), (0, (0,))])
    one_by_one = ContrastiveCollator(None, 8)([data[(0, (2, 3))], data[(0, (0,))]])
    for found in (batch, one_by_one):
        assert found["caption_ids"][0] == found["caption_ids"][2] != found["caption_ids"][1]
        assert found["group_ids"].tolist() == [0, 0] and len(found["caption_ids"]) == 3


def test_a_batch_of_pairs(shop):
    data = TrainingDataset(shop, **features(shop), batch_of="pairs")
    batch = data.__getitems__([0, 2, 5])
    one_by_one = ContrastiveCollator(None, 8)([data[0], data[2], data[5]])
    for found in (batch, one_by_one):
        assert found["caption_ids"].tolist()[0] == found["caption_ids"].tolist()[1]
        np.testing.assert_array_equal(found["group_ids"], [0, 0, 1])


@pytest.mark.parametrize("batch_of", ["images", "pairs"])
def test_the_trainer_s_loss_knows_of_them(shop, batch_of, tmp_path):
    options = {"batch_of": batch_of, "head_init": None, "feature_cache_dir": str(tmp_path / "f")}
    trainer = make_trainer(tmp_path, model=tiny_model(projection_dropout=0.0), **options)
    trainer.train_dataset = shop
    batch = next(iter(trainer.get_train_dataloader()))
    assert {"caption_ids", "group_ids"} <= set(batch)
    blind = {name: rows for name, rows in batch.items() if name not in ("caption_ids", "group_ids")}
    with torch.no_grad():
        knowing, not_knowing = (
            trainer.compute_loss(trainer.model.eval(), inputs) for inputs in (batch, blind)
        )
    assert knowing < not_knowing, "what is right for both is a mistake for none"

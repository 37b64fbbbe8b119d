"""Pins: a local copy of a data set is read again when its files have changed. `datasets` alone tells such
folders by their names, and would give out the rows that they held at first."""

from datasets import Dataset

from hf_customclip.data import load_image_text_dataset

CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---
"""


def test_a_changed_local_copy_is_read_again(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    (tmp_path / "data").mkdir()
    for rows in (3, 5):
        images = [{"bytes": b"x", "path": f"{i}.png"} for i in range(rows)]
        held = Dataset.from_dict({"image": images, "captions": [["a"]] * rows})
        held.to_parquet(tmp_path / "data" / "train.parquet")
        assert len(load_image_text_dataset(tmp_path, split="all")) == rows

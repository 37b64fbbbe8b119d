"""What cached features are keyed by.

Pinned: each ingredient changed by itself makes the towers run again (weights, configuration, pooling, image
processing, tokenizer, text length, precision, images, captions, the code itself), the tower it concerns and
not the other; with none changed nothing runs, whatever the tokenizer was last called with and wherever the
model came from.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip.data.data_collator import ContrastiveCollator
from hf_customclip.features.cache import FeatureCache
from hf_customclip.features.keys import code_digest, text_ingredients, vision_ingredients
from hf_customclip.inference.fingerprints import weights_digest
from hf_customclip.modeling.modeling_custom_clip import CustomClipModel


class Ingredients:
    """Everything features are made of; tests change one thing."""

    def __init__(self) -> None:
        self.model, self.processor = tiny_model(), tiny_processor()
        self.dataset, self.precision, self.max_text_length = tiny_dataset(3), "float32", 32

    def keep(self, folder: Path) -> set[str]:
        """Which towers' features are in the folder now."""
        before = {path.name for path in folder.glob("*-*")}
        cache = FeatureCache(mode="always", folder=folder, precision=self.precision, show_progress=False)
        collator = ContrastiveCollator(self.processor, self.max_text_length)
        cache.training_items(self.model, self.dataset, collator)
        return {path.name.split("-")[0] for path in folder.glob("*-*") if path.name not in before}


def alter_weight(tower: str) -> Callable[[Ingredients], None]:
    def change(given: Ingredients) -> None:
        with torch.no_grad():
            next(getattr(given.model, tower).parameters()).view(-1)[-1] += 1e-7

    return change


def setting(path: str, value: Any) -> Callable[[Ingredients], None]:
    def change(given: Ingredients) -> None:
        *way, name = path.split(".")
        target: Any = given
        for step in way:
            target = getattr(target, step)
        assert getattr(target, name) != value
        setattr(target, name, value)

    return change


def another_caption(given: Ingredients) -> None:
    captions = [*given.dataset["captions"][:-1], ["a red square", "another"]]
    given.dataset = given.dataset.remove_columns("captions").add_column("captions", captions)


def another_image(given: Ingredients) -> None:
    given.dataset = Dataset.from_dict(
        {**given.dataset[:], "image": tiny_dataset(4)["image"][1:]}, features=given.dataset.features
    )


def another_word(given: Ingredients) -> None:
    given.processor.tokenizer.add_tokens(["squarish"])


CHANGES = {
    "vision weights": (alter_weight("vision_model"), {"vision"}),
    "text weights": (alter_weight("text_model"), {"text"}),
    "vision pooling": (setting("model.config.vision_pooling", "cls"), {"vision"}),
    "text pooling": (setting("model.config.text_pooling", "mean"), {"text"}),
    "vision configuration": (setting("model.config.vision_config.layer_norm_eps", 1e-3), {"vision"}),
    "text configuration": (setting("model.config.text_config.sinusoidal_pos_embds", True), {"text"}),
    "resize": (setting("processor.image_processor.resample", 0), {"vision"}),
    "normalisation": (setting("processor.image_processor.do_normalize", False), {"vision"}),
    "tokenizer": (another_word, {"text"}),
    "truncation side": (setting("processor.tokenizer.truncation_side", "left"), {"text"}),
    "text length": (setting("max_text_length", 4), {"text"}),
    "precision": (setting("precision", "bfloat16"), {"vision", "text"}),
    "captions": (another_caption, {"text"}),
    "images": (another_image, {"vision"}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_makes_other_features(tmp_path: Path, name: str) -> None:
    change, towers = CHANGES[name]
    given = Ingredients()
    assert given.keep(tmp_path) == {"vision", "text"}
    assert given.keep(tmp_path) == set()
    change(given)
    assert given.keep(tmp_path) == towers


def test_what_does_not_matter(tmp_path: Path) -> None:
    given = Ingredients()
    given.keep(tmp_path)
    given.model.save_pretrained(tmp_path / "model")
    given.model = CustomClipModel.from_pretrained(tmp_path / "model")
    given.processor.tokenizer(["a", "red square"], padding="max_length", truncation=True, max_length=7)
    with torch.no_grad():  # heads and temperature are no part of the features
        for head in (given.model.visual_projection, given.model.text_projection):
            next(head.parameters()).mul_(2)
        given.model.logit_scale.add_(1)
    given.dataset = given.dataset.map(lambda row: {"image_id": row["image_id"] + 1})
    state = given.processor.tokenizer.backend_tokenizer.to_str()
    assert given.keep(tmp_path) == set()
    assert given.processor.tokenizer.backend_tokenizer.to_str() == state


def test_added_layers_are_other_features() -> None:
    collator = ContrastiveCollator(tiny_processor(), 8)
    for ingredients, name in ((vision_ingredients, "vision"), (text_ingredients, "text")):
        plain = ingredients(tiny_model(), collator)
        for part in ({f"{name}_feature_layers": [1]}, {f"{name}_feature_poolings": ["max"]}):
            assert ingredients(tiny_model(**part), collator) != plain
        assert ingredients(tiny_model(), collator) == plain
    mirrored = vision_ingredients(tiny_model(average_mirrored=True), collator)
    assert mirrored != vision_ingredients(tiny_model(), collator)


def test_the_code_is_part_of_the_key(tmp_path: Path) -> None:
    """A version of this package that pools otherwise must not find the features of the one before."""
    found = vision_ingredients(tiny_model(), ContrastiveCollator(tiny_processor(), 32))
    folder = Path(CustomClipModel.pool_image.__code__.co_filename).parent
    assert found["code"] == code_digest(folder)
    copies = [Path(shutil.copytree(folder, tmp_path / name)) for name in ("same", "other")]
    with (copies[1] / "towers_custom_clip.py").open("a") as file:
        file.write("# edited\n")
    assert [code_digest(copy) == found["code"] for copy in copies] == [True, False]


def test_swapped_weights_are_other_weights() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    before = weights_digest(layers)
    assert weights_digest(torch.nn.Sequential(layers[1], layers[0])) != before
    assert weights_digest(layers.to(torch.float64)) != before

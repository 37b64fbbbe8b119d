"""Heads-only checkpoints.

Pinned: saved without towers and put together again, the model is bit for bit the one that was saved, in
any dtype asked for; it is much smaller; the towers are checked by content, so that other weights, or the
same ones changed, are refused; a tower that is trained or has no name cannot be left out; whole and
heads-only saves in one folder never mix; a loader that does not know of it fails instead of making
towers up; the digest is computed anew when a weight changes, and a pooler that is not used takes no
part.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreters import run_python
from safetensors import safe_open
from tiny import tiny_text_tower, tiny_vision_tower
from transformers import AutoModel, ViTModel

from hf_customclip import CustomClipConfig, CustomClipModel
from hf_customclip.modeling.heads_only_custom_clip import (
    HEADS_FILE,
    HeadsOnlyMixin,
    is_head,
    load_heads,
    tower_digest,
)


@pytest.fixture
def towers(tmp_path: Path) -> tuple[str, str]:
    vision = tiny_vision_tower("vit", tmp_path / "vit")
    return vision, tiny_text_tower("distilbert", tmp_path / "distilbert")


@pytest.fixture
def model(towers: tuple[str, str]) -> Any:
    return CustomClipModel.from_vision_text_pretrained(*towers, projection_dim=16).eval()


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name]) for name in left
    )


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize("load", [CustomClipModel.from_pretrained, AutoModel.from_pretrained])
def test_put_together_it_is_the_model_that_was_saved(model: Any, tmp_path: Path, load) -> None:
    folder = tmp_path / "heads"
    model.save_pretrained(folder, heads_only=True)
    assert {file.name for file in folder.glob("*.safetensors")} == {HEADS_FILE}
    loaded = load(folder)
    assert same(loaded, model) and not loaded.training
    assert type(loaded) is CustomClipModel and loaded.name_or_path == str(folder)
    assert not any(p.requires_grad for p in loaded.vision_model.parameters())
    model.save_pretrained(tmp_path / "whole")
    assert size(folder) < size(tmp_path / "whole") / 5


def test_without_the_plugin(model: Any, tmp_path: Path) -> None:
    """The code that travels with it puts it together too."""
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    model.save_pretrained(tmp_path / "whole")
    code = f"""
import sys
sys.modules["hf_customclip"] = None
import torch
from transformers import AutoModel
one, other = (AutoModel.from_pretrained(f"{tmp_path}/{{name}}", trust_remote_code=True).state_dict()
              for name in ("heads", "whole"))
assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_its_heads_are_all_but_the_towers(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path, heads_only=True)
    with safe_open(tmp_path / HEADS_FILE, framework="pt") as file:
        towers = json.loads(file.metadata()["custom_clip_towers"])
        assert set(file.keys()) == {
            name for name, _ in model.named_parameters() if "_projection" in name or name == "logit_scale"
        }
    assert towers["vision"]["name"] == model.config.vision_name
    assert len(towers["text"]["sha256"]) == 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, "auto"])
def test_loaded_in_another_dtype(model: Any, tmp_path: Path, dtype) -> None:
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    model.save_pretrained(tmp_path / "whole")
    loaded = CustomClipModel.from_pretrained(tmp_path / "heads", dtype=dtype)
    assert same(loaded, CustomClipModel.from_pretrained(tmp_path / "whole", dtype=dtype))


def test_saved_in_half_precision(model: Any, tmp_path: Path) -> None:
    model.to(torch.bfloat16).save_pretrained(tmp_path / "heads", heads_only=True)
    assert same(CustomClipModel.from_pretrained(tmp_path / "heads", dtype="auto"), model)


def test_device_map_and_loading_info(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    loaded, info = CustomClipModel.from_pretrained(
        tmp_path / "heads", device_map="cpu", output_loading_info=True
    )
    assert same(loaded, model)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert not any(p.requires_grad for p in loaded.text_model.parameters())


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_another_tower_is_refused(model: Any, tmp_path: Path, towers, tower: str) -> None:
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    folder = towers[tower == "text"]
    changed = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        next(changed.parameters()).flatten()[0] += 1e-6
    changed.save_pretrained(folder)
    kind = "image" if tower == "vision" else "text"
    with pytest.raises(ValueError, match=rf"trained on another {kind} tower.*SHA-256.*{tower}_model="):
        CustomClipModel.from_pretrained(tmp_path / "heads")


def test_a_tower_that_moved_can_be_passed(model: Any, tmp_path: Path, towers) -> None:
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    moved = Path(towers[0]).rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"image tower .* could not be loaded; pass it as vision_model="):
        CustomClipModel.from_pretrained(tmp_path / "heads")
    tower = ViTModel.from_pretrained(moved)
    assert same(CustomClipModel.from_pretrained(tmp_path / "heads", vision_model=tower), model)


def test_a_trained_tower_cannot_be_left_out(model: Any, tmp_path: Path) -> None:
    model.unfreeze("text", last_groups=1)
    with pytest.raises(ValueError, match="the text tower is trained"):
        model.save_pretrained(tmp_path / "heads", heads_only=True)
    assert not (tmp_path / "heads").exists()


def test_a_nameless_tower_cannot_be_left_out(model: Any, tmp_path: Path) -> None:
    model.config.vision_name = None
    with pytest.raises(ValueError, match=r"needs config\.vision_name"):
        model.save_pretrained(tmp_path / "heads", heads_only=True)


def test_whole_and_heads_only_never_mix(model: Any, tmp_path: Path) -> None:
    for options in ({}, {"max_shard_size": "60KB"}, {"heads_only": True}, {}):
        with torch.no_grad():
            model.logit_scale.add_(0.1)
        model.save_pretrained(tmp_path, **options)
        assert same(CustomClipModel.from_pretrained(tmp_path), model), options
    assert {file.name for file in tmp_path.glob("*.safetensors*")} == {"model.safetensors"}


def test_a_loader_that_does_not_know_fails(model: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        super(HeadsOnlyMixin, CustomClipModel).from_pretrained(tmp_path / "heads")


def test_heads_into_a_model_that_is_there(model: Any, tmp_path: Path, towers) -> None:
    model.save_pretrained(tmp_path / "heads", heads_only=True)
    fresh: Any = CustomClipModel.from_vision_text_pretrained(*towers, projection_dim=16)
    with torch.no_grad():
        fresh.text_projection.linear1.weight.zero_()
    load_heads(fresh, tmp_path / "heads" / HEADS_FILE)
    assert same(fresh, model)
    linear = CustomClipModel.from_vision_text_pretrained(*towers, projection_dim=16, projection_type="linear")
    with pytest.raises(ValueError, match="holds other heads than the model"):
        load_heads(linear, tmp_path / "heads" / HEADS_FILE)
    with torch.no_grad():
        fresh.vision_model.embeddings.cls_token += 1
    with pytest.raises(ValueError, match="another image tower"):
        load_heads(fresh, tmp_path / "heads" / HEADS_FILE)


def test_the_digest_follows_the_weights(model: Any) -> None:
    tower = model.text_model
    first = tower_digest(tower, "cls")
    assert tower_digest(tower, "cls") == first
    weight = tower.embeddings.word_embeddings.weight
    with torch.no_grad():
        weight[0, 0] += 1
        assert tower_digest(tower, "cls") != first
        weight[0, 0] -= 1
    again = CustomClipModel.from_vision_text_pretrained(model.config.vision_name, model.config.text_name)
    assert tower_digest(again.text_model, "cls") == first


def test_an_unused_pooler_takes_no_part(model: Any) -> None:
    """A checkpoint without one gets a random one each time it is loaded."""
    one, other = tower_digest(model.vision_model, "cls"), tower_digest(model.vision_model, "pooler")
    with torch.no_grad():
        model.vision_model.pooler.dense.weight += 1
    assert tower_digest(model.vision_model, "cls") == one
    assert tower_digest(model.vision_model, "pooler") != other


def test_the_towers_are_what_is_not_a_head(model: Any) -> None:
    names = set(model.state_dict())
    assert {name.split(".")[0] for name in names if not is_head(name)} == {"vision_model", "text_model"}
    assert isinstance(model.config, CustomClipConfig)

"""What of a folder gets published, and what is found missing before anything is sent.

Pinned: a folder from save_pretrained passes; no pickle and no training leftover is ever among the
published files; truncated weights, a missing shard, code file, class, sibling import, auto_map entry,
tokenizer or card are each named; all problems come in one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hf_customclip.hub import PublishError
from hf_customclip.hub.check_folder import check_folder, published_files

from .folders import save_ready


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_ready(tmp_path / "model")


def _edit(path: Path, change: Callable[[dict], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_a_saved_model_is_ready(folder: Path) -> None:
    assert {"model.safetensors", "config.json", "README.md", "modeling_custom_clip.py"} <= set(
        check_folder(folder)
    )


def test_leftovers_of_training_stay_behind(folder: Path) -> None:
    before = check_folder(folder)
    leftovers = [
        "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "scaler.pkl", "x.joblib", "x.npy",
        "_x.json", "training_args.json", "runs/a/events.out", "checkpoint-10/model.safetensors",
        ".cache/x.json", "__pycache__/x.py",
    ]  # fmt: skip
    for name in leftovers:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x80\x04.")
    (folder / "images").mkdir()
    (folder / "images/curves.png").write_bytes(b"png")
    assert published_files(folder) == sorted([*before, "images/curves.png"])


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        r"model\.safetensors' is cut short",
    ),
    "pickled": (
        lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"),
        "its weights are pickles, which are never published",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json is missing"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config.json is not a JSON object"),
    "no auto_map": (
        lambda f: _edit(
            f / "config.json", lambda c: c["auto_map"].pop("AutoModelForZeroShotImageClassification")
        ),
        "auto_map lacks AutoModelForZeroShotImageClassification",
    ),
    "code elsewhere": (
        lambda f: _edit(f / "config.json", lambda c: c["auto_map"].update(AutoModel="a/b--modeling_x.M")),
        r"AutoModel uses code from another repository \(a/b\)",
    ),
    "no code": (
        lambda f: (f / "modeling_custom_clip.py").unlink(),
        r"modeling_custom_clip\.py, which is missing",
    ),
    "no class": (
        lambda f: (f / "modeling_custom_clip.py").write_text("x = 1\n"),
        "needs the class CustomClipModel, which modeling_custom_clip.py does not define",
    ),
    "no sibling": (
        lambda f: (f / "losses_custom_clip.py").unlink(),
        "modeling_custom_clip.py imports losses_custom_clip.py, which is missing",
    ),
    "broken code": (lambda f: (f / "towers_custom_clip.py").write_text("def"), "which is not valid Python"),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "processor_config.json is missing"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "vocabulary .* is missing"),
    "no card": (lambda f: (f / "README.md").unlink(), "README.md, the model card, is missing"),
    "bare card": (lambda f: (f / "README.md").write_text("# x\n"), "README.md has no metadata block"),
    "no folder": (lambda f: f.rename(f.with_name("elsewhere")), "is not a folder"),
    "three at once": (
        lambda f: [(f / name).unlink() for name in ("model.safetensors", "tokenizer.json", "README.md")],
        r"model\.safetensors is missing.*vocabulary.*README\.md",
    ),
    "bad card": (
        lambda f: (f / "README.md").write_text("---\na: [\n---\n"),
        "README.md's metadata is not valid",
    ),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    break_it, message = BREAKAGES[name]
    break_it(folder)
    with pytest.raises(PublishError, match=message) as error:
        check_folder(folder)
    assert "\n" not in str(error.value)


def test_shards(tmp_path: Path) -> None:
    folder = save_ready(tmp_path, max_shard_size="30KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert {shard.name for shard in shards} < set(check_folder(folder))
    index = folder / "model.safetensors.index.json"
    _edit(index, lambda i: i["weight_map"].update(logit_ghost=shards[1].name))
    shards[0].unlink()
    missing = rf"{shards[0].name}, named by the index, is missing; {shards[1].name} lacks logit_ghost"
    with pytest.raises(PublishError, match=missing):
        check_folder(folder)

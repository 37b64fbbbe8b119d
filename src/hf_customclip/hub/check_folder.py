"""What of a folder gets published, and whether it is a whole model, asked before anything is sent."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from .._files import read_json
from .._safetensors import read_headers
from .errors import PublishError

REQUIRED_AUTO_CLASSES = ("AutoConfig", "AutoModel", "AutoModelForZeroShotImageClassification")
TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
# A list of what is known to be safe: pickles hide behind many endings, so a list of those would leak.
PUBLISHED_SUFFIXES = (
    ".safetensors", ".json", ".txt", ".model", ".py", ".md", ".jinja", ".yaml", ".yml",
    ".png", ".jpg", ".jpeg", ".webp", ".svg",
)  # fmt: skip
PUBLISHED_NAMES = ("LICENSE", "NOTICE")
# Left by training in the same folder; not part of the model.
SKIPPED_FOLDERS = ("checkpoint-*", "runs", "last-checkpoint", "__pycache__", ".*", "_*", "logs")
# They name paths of the machine that trained, or are what the card was written from.
SKIPPED_FILES = ("training_args.json", "trainer_state.json", "data.json")
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def published_files(folder: Path) -> list[str]:
    """Names, relative to `folder`, of the files that get published: never a pickle, no training leftovers."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(file.as_posix() for file in files if _is_published(file))


def check_folder(folder: Path) -> list[str]:
    """`published_files(folder)` of a whole model; otherwise a `PublishError` that names all its problems."""
    if not folder.is_dir():
        raise PublishError(f"{folder} is not a folder; give the one that save_pretrained or training wrote.")
    if (folder / "adapter_config.json").is_file():
        raise PublishError(
            f"{folder} is not ready to publish: it holds an adapter, not a model; merge it (examples/lora.py), or "
            "publish the adapter itself with peft's push_to_hub."
        )
    files = published_files(folder)
    problems = [
        *_weights(folder),
        *_configs(folder),
        *_code(folder),
        *_processor(folder, files),
        *_card(folder),
    ]
    if problems:
        raise PublishError(f"{folder} is not ready to publish: {'; '.join(problems)}.")
    return files


def _is_published(file: Path) -> bool:
    if any(fnmatch(folder, pattern) for folder in file.parts[:-1] for pattern in SKIPPED_FOLDERS):
        return False
    known = file.suffix.lower() in PUBLISHED_SUFFIXES or file.name in PUBLISHED_NAMES
    return known and not file.name.startswith(("_", ".")) and file.name not in SKIPPED_FILES


def _weights(folder: Path) -> Iterator[str]:
    """Problems with the weights: missing, truncated, a shard missing, a heads-only checkpoint, a pickle."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file() and index.is_file():
        yield "model.safetensors lies beside an index of shards; delete the stale one of the two"
    elif (folder / "model.safetensors").is_file():
        yield from _shard(folder / "model.safetensors", set())
    elif index.is_file():
        weight_map = _json(index).get("weight_map", {})
        if not weight_map:
            yield "model.safetensors.index.json names no weights"
        for shard in sorted(set(weight_map.values())):
            yield from _shard(folder / shard, {key for key, name in weight_map.items() if name == shard})
    elif any(folder.glob("heads*.safetensors")):
        yield (
            "it is a heads-only checkpoint, which needs the towers' own repositories; load it with "
            "CustomClipModel.from_pretrained and save it whole with save_pretrained"
        )
    elif any(path.name.endswith(PICKLE_SUFFIXES) for path in folder.iterdir()):
        yield "its weights are pickles, which are never published; load and save it with save_pretrained"
    else:
        yield "model.safetensors is missing; save the model with save_pretrained"


def _shard(path: Path, expected: set[str]) -> Iterator[str]:
    if not path.is_file():
        yield f"{path.name}, named by the index, is missing"
        return
    try:
        names = read_headers([path]).keys()
    except ValueError as error:
        yield str(error).removesuffix(".")
        return
    if not names:
        yield f"{path.name} holds no weights"
    if missing := sorted(expected - names):
        yield f"{path.name} lacks {missing[0]}, which the index says it holds"


def _configs(folder: Path) -> Iterator[str]:
    config = _json(folder / "config.json")
    if not (folder / "config.json").is_file():
        yield "config.json is missing"
    elif not config:
        yield "config.json is not a JSON object"
    elif missing := [name for name in REQUIRED_AUTO_CLASSES if name not in config.get("auto_map", {})]:
        yield f"config.json's auto_map lacks {', '.join(missing)}; save the model again with save_pretrained"


def _code(folder: Path) -> Iterator[str]:
    """Problems with the code that the auto_maps name: missing, or living in another repository."""
    sources: dict[str, ast.Module | None] = {}
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        for auto_class, reference in _references(_json(folder / name)):
            if "--" in reference:
                repo = reference.split("--")[0]
                yield f"{name}'s {auto_class} uses code from another repository ({repo}); save it again"
                continue
            module, _, class_name = reference.rpartition(".")
            yield from _read_source(folder, f"{module}.py", f"{name}'s {auto_class} needs", sources)
            tree = sources[f"{module}.py"]
            if tree and class_name not in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}:
                yield f"{name}'s {auto_class} needs the class {class_name}, which {module}.py does not define"


def _references(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for auto_class, value in (config.get("auto_map") or {}).items():
        # AutoTokenizer holds a pair, of which one may be missing.
        for reference in value if isinstance(value, list) else [value]:
            if reference:
                yield auto_class, reference


def _read_source(
    folder: Path, file: str, wanted: str, sources: dict[str, ast.Module | None]
) -> Iterator[str]:
    """Parse `file`, and what it imports by `from .sibling import`, into `sources`; say what cannot be."""
    if file in sources:
        return
    sources[file] = None
    try:
        tree = sources[file] = ast.parse((folder / file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield f"{wanted} {file}, which is missing"
        return
    except (SyntaxError, ValueError):
        yield f"{wanted} {file}, which is not valid Python"
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            yield from _read_source(folder, f"{node.module}.py", f"{file} imports", sources)


def _processor(folder: Path, files: list[str]) -> Iterator[str]:
    processor = _json(folder / "processor_config.json")
    if not processor:
        yield "processor_config.json is missing or not JSON; save the processor there with save_pretrained"
    elif "AutoProcessor" not in (processor.get("auto_map") or {}):
        yield "processor_config.json's auto_map lacks AutoProcessor; save the processor again"
    if not _json(folder / "tokenizer_config.json"):
        yield "tokenizer_config.json is missing or not JSON; save the processor there with save_pretrained"
    if not any(fnmatch(file, pattern) for file in files for pattern in TOKENIZER_FILES):
        yield "the tokenizer's vocabulary (tokenizer.json) is missing"


def _card(folder: Path) -> Iterator[str]:
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if not (folder / "README.md").is_file():
        yield "README.md, the model card, is missing"
        return
    try:
        card = ModelCard.load(folder / "README.md")
    except (YAMLError, ValueError, OSError) as error:
        yield f"README.md's metadata is not valid ({' '.join(str(error).split())})"
        return
    if not card.data.to_dict():
        yield "README.md has no metadata block; write the card with render_model_card"


def _json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one where there is none."""
    value = read_json(path)
    return value if isinstance(value, dict) else {}

"""`hf-customclip info`: what a checkpoint is, by its configuration and the headers of its weights alone."""

from __future__ import annotations

import json
import math
import os
import struct
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """Say what a saved model is: towers, sizes, heads, temperature, results.

\b
    hf-customclip info outputs/sample
    hf-customclip info user/custom-clip-flickr30k
    hf-customclip info outputs/sample --json | jq .parameters.trained

Reads the configuration and the headers of the weights; loads no model, needs
no torch, and takes a moment. A model on the Hub is downloaded first.
"""

TOWERS = ("vision", "text")
# BatchNorm's statistics are saved beside the parameters and are none.
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
MAX_INVERSE_TEMPERATURE = 100.0
LONGEST_HEADER = 100_000_000  # safetensors' own limit, in bytes
Header = dict[str, dict[str, Any]]


def info(
    model: Annotated[str, typer.Argument(help="A saved folder or a Hub id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Print what the files say."""
    facts = describe(local_folder(model))
    facts = {"model": model, **facts}
    print(json.dumps(facts, indent=2, ensure_ascii=False) if as_json else as_text(facts))


def local_folder(model: str) -> Path:
    """The model's folder; a model on the Hub is fetched (its weights too: their headers are in them).

    Raises:
        FileNotFoundError: there is no such folder, and the name is none that the Hub could have.
    """
    folder = Path(model)
    if folder.is_dir():
        return folder
    if model.count("/") > 1 or model.startswith((".", "/", "~")):
        raise FileNotFoundError(f"There is no folder {model!r}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors"]))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise FileNotFoundError(
            f"There is no folder {model!r}, and it could not be fetched from the Hub ({reason})."
        ) from error


def describe(folder: Path) -> dict[str, Any]:
    """Facts of a saved `CustomClipModel`.

    Raises:
        FileNotFoundError: the folder holds no configuration or no weights.
        ValueError: it is another kind of model, or its weights are damaged.
    """
    config = _config(folder)
    files = sorted(folder.glob("model*.safetensors")) or sorted(folder.glob("heads.safetensors"))
    if not files:
        raise FileNotFoundError(f"'{folder}' holds no weights (model*.safetensors or heads.safetensors).")
    tensors: Header = {}
    for file in files:
        tensors |= read_header(file)
    scale = _scalar(files, "logit_scale")
    temperature = None if scale is None else min(math.exp(scale), MAX_INVERSE_TEMPERATURE)
    return {
        "towers": {tower: _tower(config, tower, tensors) for tower in TOWERS},
        "projection": {
            "type": config.get("projection_type", "mlp"),
            "dim": config.get("projection_dim", 512),
        },
        "parameters": _parameters(config, tensors),
        "loss": config.get("loss_type", "softmax"),
        "inverse_temperature": temperature,
        "logit_bias": _scalar(files, "logit_bias"),
        "max_text_length": config.get("max_text_length", 32),
        "files": {file.name: file.stat().st_size for file in files},
        "heads_only": files[0].name == "heads.safetensors",
        "results": _results(folder),
    }


def read_header(file: Path) -> Header:
    """Name to `dtype`, `shape` and `data_offsets` of every tensor in a safetensors file.

    Raises:
        ValueError: it is no safetensors file, or shorter than its header says.
    """
    with file.open("rb") as data:
        start = data.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else LONGEST_HEADER + 1
        try:
            if length > LONGEST_HEADER:
                raise ValueError
            header = json.loads(data.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"'{file}' is no safetensors file.") from None
    if file.stat().st_size < end:
        raise ValueError(f"'{file}' is cut short: {file.stat().st_size:,} of {end:,} bytes are there.")
    return tensors


def as_text(facts: dict[str, Any]) -> str:
    """The facts as people read them."""
    rows = [("model", facts["model"] + (" (heads only)" if facts["heads_only"] else ""))]
    for tower, about in facts["towers"].items():
        count = (
            "not in this checkpoint" if about["parameters"] is None else f"{about['parameters']:,} parameters"
        )
        state = "frozen" if about["frozen"] else "trained"
        if about["unfrozen_groups"]:
            state = f"frozen but for the last {about['unfrozen_groups']} layer groups"
        pooled = f"{about['width']} wide by {about['pooling']}, " if about["width"] else ""
        rows.append((tower, f"{about['name']} ({about['model_type']}), {pooled}{count}, {state}"))
    projection, parameters = facts["projection"], facts["parameters"]
    rows.append(("heads", f"{projection['type']}, to {projection['dim']} dimensions"))
    trained = "part of a tower" if parameters["trained"] is None else f"{parameters['trained']:,}"
    rows.append(
        ("parameters", f"{parameters['total']:,}, of which trained: {trained} ({parameters['dtype']})")
    )
    loss = facts["loss"]
    if facts["inverse_temperature"] is not None:
        loss += f", cosines times {facts['inverse_temperature']:.2f}"
    if facts["logit_bias"] is not None:
        loss += f", bias {facts['logit_bias']:.2f}"
    rows += [("loss", loss), ("texts", f"cut at {facts['max_text_length']} tokens")]
    size = sum(facts["files"].values()) / 1e6
    rows.append(("weights", f"{size:,.1f} MB in {len(facts['files'])} file(s)"))
    if facts["results"]:
        results = "  ".join(f"{name} {value:.3f}" for name, value in facts["results"].items())
        rows.append(("results", results))
    return "\n".join(f"{name:11} {value}" for name, value in rows)


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"'{folder}' holds no config.json, so no saved model.")
    config = json.loads(file.read_text(encoding="utf-8"))
    if config.get("model_type") != "custom_clip":
        raise ValueError(f"'{folder}' is a {config.get('model_type')!r}, not a custom CLIP model.")
    return config


def _tower(config: dict[str, Any], tower: str, tensors: Header) -> dict[str, Any]:
    own = config[f"{tower}_config"]
    name = config.get(f"{tower}_name") or own.get("architecture") or "random weights"
    width = config.get("vision_embed_dim") if tower == "vision" else own.get("hidden_size", own.get("dim"))
    inside = any(each.startswith(f"{tower}_model.") for each in tensors)
    return {
        "name": os.path.basename(name) if os.path.isabs(name) else name,
        "model_type": own.get("model_type"),
        "width": width,
        "pooling": config.get(f"{tower}_pooling", {"vision": "pooler", "text": "cls"}[tower]),
        "frozen": config.get(f"freeze_{tower}", True),
        "unfrozen_groups": config.get(f"{tower}_unfrozen_groups", 0),
        "parameters": _count(tensors, f"{tower}_model.") if inside else None,
    }


def _parameters(config: dict[str, Any], tensors: Header) -> dict[str, Any]:
    fixed = [f"{tower}_model." for tower in TOWERS if config.get(f"freeze_{tower}", True)]
    if not config.get("learn_logit_scale", True):
        fixed.append("logit_scale")
    partly = any(config.get(f"{tower}_unfrozen_groups", 0) for tower in TOWERS)
    total = _count(tensors)
    kinds = {entry["dtype"] for name, entry in tensors.items() if not name.endswith(NO_PARAMETERS)}
    dtypes = sorted(DTYPES.get(str(kind), str(kind)) for kind in kinds)
    trained = None if partly else total - sum(_count(tensors, prefix) for prefix in fixed)
    return {"total": total, "trained": trained, "dtype": ", ".join(dtypes)}


def _count(tensors: Header, prefix: str = "") -> int:
    return sum(
        math.prod(entry["shape"])
        for name, entry in tensors.items()
        if name.startswith(prefix) and not name.endswith(NO_PARAMETERS)
    )


def _scalar(files: list[Path], name: str) -> float | None:
    """The one number of a tensor, read from its place in the file."""
    for file in files:
        entry = read_header(file).get(name)
        if entry is None:
            continue
        with file.open("rb") as data:
            length = struct.unpack("<Q", data.read(8))[0]
            data.seek(8 + length + entry["data_offsets"][0])
            value = data.read(entry["data_offsets"][1] - entry["data_offsets"][0])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            return struct.unpack("<f", b"\0\0" + value)[0]
        return struct.unpack({"F64": "<d", "F32": "<f", "F16": "<e"}[entry["dtype"]], value)[0]
    return None


def _results(folder: Path) -> dict[str, float]:
    """Recalls and rsum that training recorded: of the test split where there was one."""
    file = folder / "all_results.json"
    if not file.is_file():
        return {}
    known = json.loads(file.read_text(encoding="utf-8"))
    prefix = "test_" if any(name.startswith("test_") for name in known) else "eval_"
    wanted = [f"{way}_recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)] + ["rsum"]
    return {prefix + name: known[prefix + name] for name in wanted if prefix + name in known}

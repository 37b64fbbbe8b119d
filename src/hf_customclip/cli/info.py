"""`hf-customclip info`: what a checkpoint is, by its configuration and the headers of its weights alone."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from .._files import read_json
from .._safetensors import (
    NO_PARAMETERS,
    Header,
    count,
    count_parameters,
    read_headers,
    read_scalar,
    weight_files,
)
from .options import Model, takes_options
from .output import Output, flat

HELP = """Say what a saved model is: towers, sizes, heads, temperature, results.

\b
    hf-customclip info outputs/sample
    hf-customclip info user/custom-clip-flickr30k
    hf-customclip info outputs/sample --json | jq .parameters.trained

Reads the configuration and the headers of the weights; loads no model, needs
no torch, and takes a moment. A model on the Hub is downloaded first.
"""

TOWERS = ("vision", "text")
# Weights that take in the towers' features: of a linear head or of the MLP's first layer.
HEADS = {
    tower: (f"{head}_projection.weight", f"{head}_projection.linear1.weight")
    for tower, head in (("vision", "visual"), ("text", "text"))
}
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
MAX_INVERSE_TEMPERATURE = 100.0


@takes_options
def info(model: Model, printed: Output) -> None:
    """Print what the files say."""
    facts = describe(local_folder(model))
    facts = {"model": model, **facts}
    printed.show(table=as_text(facts), value=facts, rows=[flat(facts)])
    printed.say_next("hf-customclip", "evaluate", model, "DATA")


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
    files = weight_files(folder)
    if not files:
        raise FileNotFoundError(f"'{folder}' holds no weights (model*.safetensors or heads.safetensors).")
    tensors = read_headers(files)
    scale = read_scalar(files, "logit_scale")
    trained, total = count_parameters(tensors, config)
    kinds = {entry["dtype"] for name, entry in tensors.items() if not name.endswith(NO_PARAMETERS)}
    temperature = None if scale is None else min(math.exp(scale), MAX_INVERSE_TEMPERATURE)
    return {
        "towers": {tower: _tower(config, tower, tensors) for tower in TOWERS},
        "projection": {
            "type": config.get("projection_type", "mlp"),
            "dim": config.get("truncate_dim") or config.get("projection_dim", 512),
        },
        "parameters": {
            "total": total,
            "trained": trained,
            "dtype": ", ".join(sorted(DTYPES.get(kind, kind) for kind in kinds)),
        },
        "loss": config.get("loss_type", "softmax"),
        "inverse_temperature": temperature,
        "logit_bias": read_scalar(files, "logit_bias"),
        "max_text_length": config.get("max_text_length", 32),
        "files": {file.name: file.stat().st_size for file in files},
        "heads_only": files[0].name == "heads.safetensors",
        "results": _results(folder),
    }


def as_text(facts: dict[str, Any]) -> str:
    """The facts as people read them."""
    rows = [("model", facts["model"] + (" (heads only)" if facts["heads_only"] else ""))]
    for tower, about in facts["towers"].items():
        size = (
            "not in this checkpoint" if about["parameters"] is None else f"{about['parameters']:,} parameters"
        )
        state = "frozen" if about["frozen"] else "trained"
        if about["unfrozen_groups"]:
            state = f"frozen but for the last {about['unfrozen_groups']} layer groups"
        layers = "".join(f" + layer {layer}" for layer in about["feature_layers"])
        feature = f"{about['width']} wide by {about['pooling']}{layers}"
        rows.append((tower, f"{about['name']} ({about['model_type']}), {feature}, {size}, {state}"))
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
    inside = any(each.startswith(f"{tower}_model.") for each in tensors)
    return {
        "name": os.path.basename(name) if os.path.isabs(name) else name,
        "model_type": own.get("model_type"),
        "width": next(
            (each["shape"][1] for name, each in tensors.items() if name.startswith(HEADS[tower])), None
        ),
        "pooling": config.get(f"{tower}_pooling", {"vision": "pooler", "text": "cls"}[tower]),
        "feature_layers": config.get(f"{tower}_feature_layers") or [],
        "frozen": config.get(f"freeze_{tower}", True),
        "unfrozen_groups": config.get(f"{tower}_unfrozen_groups", 0),
        "parameters": count(tensors, f"{tower}_model.") if inside else None,
    }


def _results(folder: Path) -> dict[str, float]:
    """Recalls and rsum that training recorded: of the test split where there was one."""
    known = read_json(folder / "all_results.json") or {}
    prefix = "test_" if any(name.startswith("test_") for name in known) else "eval_"
    wanted = [f"{way}_recall@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)] + ["rsum"]
    return {prefix + name: known[prefix + name] for name in wanted if prefix + name in known}

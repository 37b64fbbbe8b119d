# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Heads-only checkpoints: of a model whose towers are frozen, the trained part alone, a few MB.

The towers are named in it with their revisions and the SHA-256 of their contents. Loading fetches them from
where they first came, and refuses any that are not the very same.
"""

import hashlib
import json
import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils.hub import cached_file

from .towers_custom_clip import load_text_tower, load_vision_tower

# Not "model.safetensors": a loader that knows nothing of this must fail, not fill in random towers.
HEADS_FILE = "heads.safetensors"
METADATA_KEY = "custom_clip_towers"
TOWERS = ("vision", "text")
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
# A time of last change that marks a file, so that one not written again is recognised.
LONG_AGO = 1
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder", "proxies")


class HeadsOnlyMixin:
    """`save_pretrained(heads_only=True)`, and a `from_pretrained` that puts such a checkpoint together."""

    config_class: Any

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], *args: Any, heads_only: bool = False, **kwargs: Any
    ) -> Any:
        """As `PreTrainedModel.save_pretrained`; with `heads_only` without the towers, then to be frozen."""
        if heads_only:
            return save_heads_only(self, save_directory, kwargs.get("state_dict"))
        # transformers leaves a whole file beside new shards, and would load it instead of them.
        for path in _weights(save_directory):
            os.utime(path, (LONG_AGO, LONG_AGO))
        saved = super().save_pretrained(save_directory, *args, **kwargs)  # type: ignore[misc]
        for path in _weights(save_directory):
            if os.stat(path).st_mtime == LONG_AGO:
                os.remove(path)
        return saved

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As `PreTrainedModel.from_pretrained`; a heads-only checkpoint's towers are fetched and checked."""
        name_or_path = pretrained_model_name_or_path
        heads_file = heads_only_file(name_or_path, **kwargs) if _is_folder(name_or_path) else None
        if heads_file is None:
            try:
                return super().from_pretrained(name_or_path, *args, **kwargs)  # type: ignore[misc]
            except OSError:
                # Asked for only now: of a whole checkpoint on the Hub it would be a request for nothing.
                heads_file = heads_only_file(name_or_path, **kwargs)
                if heads_file is None:
                    raise
        assembled = assemble(cls.config_class, name_or_path, heads_file, kwargs)
        loaded = super().from_pretrained(None, *args, **assembled)  # type: ignore[misc]
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.name_or_path = model.config.name_or_path = str(name_or_path)
        return loaded


def save_heads_only(
    model: Any, folder: str | os.PathLike[str], state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Write configuration, code and `heads.safetensors` into `folder`; whole weights there are removed.

    Args:
        state_dict: the model's, where a distributed wrapper has gathered it; only its heads are used.

    Raises:
        ValueError: a tower is trained, or nothing says where it can be loaded from.
    """
    towers = {tower: _describe(model, tower) for tower in TOWERS}
    heads = {name: value for name, value in (state_dict or model.state_dict()).items() if is_head(name)}
    os.makedirs(folder, exist_ok=True)
    custom_object_save(model, folder, config=model.config)
    model.config.architectures = [type(model).__name__]
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.save_pretrained(folder)
    metadata = {"format": "pt", METADATA_KEY: json.dumps(towers)}
    part = os.path.join(folder, f".{HEADS_FILE}.{os.getpid()}")
    save_file({name: value.detach().cpu().contiguous() for name, value in heads.items()}, part, metadata)
    os.replace(part, os.path.join(folder, HEADS_FILE))
    # Weights of an earlier whole save: a load would take them.
    for name in os.listdir(folder):
        if name in WEIGHT_FILES or (name.startswith("model-") and name.endswith(".safetensors")):
            os.remove(os.path.join(folder, name))


def _is_folder(name_or_path: Any) -> bool:
    return name_or_path is not None and os.path.isdir(name_or_path)


def is_head(name: str) -> bool:
    """Whether a weight of this name is outside the towers."""
    return not name.startswith(tuple(f"{tower}_model." for tower in TOWERS))


def _weights(folder: str | os.PathLike[str]) -> list[str]:
    """The files in a folder that a load would begin with."""
    paths = [os.path.join(folder, name) for name in (*WEIGHT_FILES, HEADS_FILE)]
    return [path for path in paths if os.path.isfile(path)]


def heads_only_file(folder: str | os.PathLike[str] | None, **options: Any) -> str | None:
    """Path of the heads of a heads-only checkpoint, a folder or a Hub id, or None where it is none."""
    if folder is None:
        return None
    if _is_folder(folder):
        folder = os.path.join(folder, options.get("subfolder") or "")
        whole = any(os.path.isfile(os.path.join(folder, name)) for name in WEIGHT_FILES)
        heads = os.path.join(folder, HEADS_FILE)
        return heads if os.path.isfile(heads) and not whole else None
    return cached_file(
        folder,
        HEADS_FILE,
        **{name: options[name] for name in HUB_OPTIONS if options.get(name) is not None},
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )


def load_heads(model: Any, heads_file: str | os.PathLike[str]) -> None:
    """Load the heads into a model that has its towers already, if they are the very same.

    Raises:
        ValueError: other towers, or other heads than the model's.
    """
    heads, towers = _read(heads_file)
    for tower in TOWERS:
        pooling = getattr(model.config, f"{tower}_pooling")
        _check_same(towers[tower], tower_digest(model.get_submodule(f"{tower}_model"), pooling), tower)
    expected = {name for name in model.state_dict() if is_head(name)}
    if expected != set(heads):
        raise ValueError(f"{heads_file} holds other heads than the model: {sorted(expected ^ set(heads))[0]}")
    model.load_state_dict(heads, strict=False)


def assemble(
    config_class: Any, folder: str | os.PathLike[str], heads_file: str, kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Arguments for `PreTrainedModel.from_pretrained(None, ...)` that put a heads-only checkpoint together.

    Args:
        kwargs: those of `from_pretrained`; `vision_model=` and `text_model=` are used instead of loading the
            towers from where they first came.

    Raises:
        ValueError: a tower cannot be loaded, or is not the one that the heads were trained on.
    """
    hub = {name: kwargs.pop(name) for name in HUB_OPTIONS if name in kwargs}
    given = {tower: kwargs.pop(f"{tower}_model", None) for tower in TOWERS}
    config = kwargs.pop("config", None) or config_class.from_pretrained(folder, **hub)
    state_dict, towers = _read(heads_file)
    for tower in TOWERS:
        network = given[tower] or _load_tower(towers[tower], tower, hub)
        digest = tower_digest(network, getattr(config, f"{tower}_pooling"))
        _check_same(towers[tower], digest, tower)
        state_dict |= {f"{tower}_model.{name}": value for name, value in network.state_dict().items()}
    return {**kwargs, "config": config, "state_dict": state_dict}


def tower_digest(tower: nn.Module, pooling: str) -> str:
    """SHA-256 over names, types, shapes and bytes of a tower's weights; of an unused pooler, which may be
    random, nothing. Kept until a weight changes, so that of a frozen tower it is computed once."""
    weights = {
        name: value
        for name, value in sorted(tower.state_dict().items())
        if pooling == "pooler" or not name.startswith("pooler.")
    }
    state = [(name, value.data_ptr(), value._version) for name, value in weights.items()]
    kept = getattr(tower, "_weights_digest", None)
    if kept is not None and kept[0] == state:
        return str(kept[1])
    sha256 = hashlib.sha256()
    for name, value in weights.items():
        sha256.update(f"{name}:{value.dtype}:{tuple(value.shape)};".encode())
        sha256.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    tower._weights_digest = (state, sha256.hexdigest())  # type: ignore[assignment]
    return sha256.hexdigest()


def _describe(model: Any, tower: str) -> dict[str, Any]:
    network, name = model.get_submodule(f"{tower}_model"), getattr(model.config, f"{tower}_name")
    kind = "image" if tower == "vision" else tower
    if any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(
            f"heads_only=True leaves out the towers, but the {kind} tower is trained: save it whole"
        )
    if name is None:
        raise ValueError(
            f"heads_only=True needs config.{tower}_name to say where the {kind} tower can be loaded from"
        )
    return {
        "name": name,
        "revision": getattr(network.config, "_commit_hash", None),
        "weights": getattr(network, "pretrained_weights", "DEFAULT"),
        "dtype": str(network.dtype).removeprefix("torch."),
        "sha256": tower_digest(network, getattr(model.config, f"{tower}_pooling")),
    }


def _load_tower(described: dict[str, Any], tower: str, hub: dict[str, Any]) -> nn.Module:
    load: Callable[..., nn.Module] = load_vision_tower if tower == "vision" else load_text_tower
    options: dict[str, Any] = {
        name: hub[name] for name in ("cache_dir", "local_files_only", "token") if name in hub
    }
    if described["revision"]:
        options["revision"] = described["revision"]
    dtype = getattr(torch, described["dtype"])
    try:
        network = load(described["name"], described["weights"], **options, dtype=dtype)
    except (OSError, ValueError) as error:
        kind = "image" if tower == "vision" else tower
        raise ValueError(
            f"this checkpoint holds only the heads, and their {kind} tower {described['name']!r} could not "
            f"be loaded; pass it as {tower}_model=. ({str(error).splitlines()[0]})"
        ) from error
    return network.to(dtype)


def _check_same(described: dict[str, Any], digest: str, tower: str) -> None:
    if digest != described["sha256"]:
        kind = "image" if tower == "vision" else tower
        raise ValueError(
            f"these heads were trained on another {kind} tower: {described['name']!r} has weights with "
            f"SHA-256 {digest[:12]}…, and theirs had {described['sha256'][:12]}…; pass the right one as "
            f"{tower}_model="
        )


def _read(heads_file: str | os.PathLike[str]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    with safe_open(heads_file, framework="pt") as file:
        heads = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        return heads, json.loads(file.metadata()[METADATA_KEY])

# Copyright 2026 The hf-customclip authors. Licensed under the Apache License, Version 2.0.
"""Towers whose code came with their checkpoint: it is saved beside the joined model, and found there again.

Nobody's code runs unasked: until `trust_remote_code=True` is given, the configuration holds the settings of
such a tower as they were written (`RemoteTowerConfig`).
"""

import os
import sys
from pathlib import Path
from typing import Any

from transformers import AutoModel
from transformers.dynamic_module_utils import (
    custom_object_save,
    get_class_from_dynamic_module,
    get_relative_import_files,
    resolve_trust_remote_code,
)

from .configuration_custom_clip import RemoteTowerConfig, TorchvisionBackboneConfig
from .towers_custom_clip import HUB_OPTIONS

TOWERS = ("vision", "text")


def is_remote(value: Any) -> bool:
    """Whether a tower's or a configuration's class is code that came with a checkpoint."""
    own = getattr(value, "config", value).model_type == TorchvisionBackboneConfig.model_type
    return type(value).__module__.startswith("transformers_modules.") and not own


def check_code_files(model: Any) -> None:
    """Refuse towers whose code files could not lie in one folder.

    Raises:
        ValueError: two different files of one name.
    """
    files: dict[str, Path] = {}
    for tower in TOWERS:
        network = model.get_submodule(f"{tower}_model")
        for value in (network, network.config) if is_remote(network) else ():
            main = sys.modules[type(value).__module__].__file__
            assert main is not None
            for path in map(Path, (main, *get_relative_import_files(main))):
                other = files.setdefault(path.name, path)
                if other.read_bytes() != path.read_bytes() or path.name.endswith("_custom_clip.py"):
                    raise ValueError(
                        f"the {tower} tower brings a code file {path.name} that another part of the model has too, "
                        "with other contents: rename it in the tower's folder"
                    )


def save_tower_code(model: Any, folder: str | os.PathLike[str]) -> None:
    """Copy the code files of towers that brought some, and note in `config` which classes are in them."""
    for tower in TOWERS:
        network = model.get_submodule(f"{tower}_model")
        if not is_remote(network):
            vars(network.config).pop("auto_map", None)  # transformers' own class is meant
            continue
        os.makedirs(folder, exist_ok=True)
        entries = {"AutoConfig": network.config, "AutoModel": network}
        for value in entries.values():
            custom_object_save(value, folder)
        network.config.auto_map = {
            auto: f"{type(value).__module__.split('.')[-1]}.{type(value).__name__}"
            for auto, value in entries.items()
        }


def with_remote_towers(config_class: Any, name_or_path: Any, options: dict[str, Any]) -> dict[str, Any]:
    """`from_pretrained`'s options, with a `config` whose remote towers have their own classes.

    Raises:
        ValueError: there are such towers, and `trust_remote_code=True` was not given.
    """
    hub = {name: options[name] for name in HUB_OPTIONS if options.get(name) is not None}
    if name_or_path is None:
        return options
    config = options.get("config")
    if config is None:
        config = config_class.from_pretrained(name_or_path, **hub)
    towers = [tower for tower in TOWERS if _is_placeholder(getattr(config, f"{tower}_config"))]
    if not towers:
        return options
    resolve_trust_remote_code(options.get("trust_remote_code"), str(name_or_path), False, True)
    for tower in towers:
        settings = getattr(config, f"{tower}_config").settings
        own: dict[str, Any] = {
            auto: get_class_from_dynamic_module(settings["auto_map"][auto], name_or_path, **hub)
            for auto in ("AutoConfig", "AutoModel")
        }
        AutoModel.register(own["AutoConfig"], own["AutoModel"], exist_ok=True)
        setattr(config, f"{tower}_config", own["AutoConfig"].from_dict(dict(settings)))
    return {**options, "config": config}


def _is_placeholder(config: Any) -> bool:
    # By its name: with remote code its class may be another copy.
    return bool(config.model_type == RemoteTowerConfig.model_type)

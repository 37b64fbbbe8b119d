"""The model card of a saved folder, from what lies in it and what the caller knows besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from .._files import read_json, write_text
from .._safetensors import count_parameters, read_headers, weight_files
from ..evaluation.reports import RETRIEVAL_METRICS
from .errors import CLIENT_ERRORS
from .known_data import DataDescription, hub_id_of
from .model_card import RetrievalResult, render_model_card

DATA_FILE = "data.json"
# What a reader of the card wants to know of the training arguments, as it should be read.
SETTINGS = {
    "num_train_epochs": "epochs",
    "max_steps": "steps",
    "per_device_train_batch_size": "batch size (each process)",
    "gradient_accumulation_steps": "gradient accumulation steps",
    "captions_per_image": "captions of each image",
    "caption_sampling": "choice of captions",
    "gather_negatives": "negatives from all processes",
    "optim": "optimizer",
    "learning_rate": "learning rate",
    "lr_scheduler_type": "schedule",
    "warmup_steps": "warm-up",
    "weight_decay": "weight decay",
    "seed": "seed",
    "bf16": "bf16",
    "fp16": "fp16",
}


def write_model_card(
    folder: str | Path,
    repo_id: str,
    *,
    data: DataDescription | None = None,
    license: str | None = None,
    results: Sequence[RetrievalResult] | None = None,
    log_history: Sequence[Mapping[str, float]] | None = None,
    arguments: Mapping[str, Any] | None = None,
    api: HfApi | None = None,
) -> Path:
    """Write `README.md` into a saved model's folder, with an image of the curves where Matplotlib is there.

    Parameters are counted in the weights. Arguments not named here are `render_model_card`'s.

    Args:
        data: what it was trained on; by default what the run wrote down in the folder's `data.json`.
        results: measured retrieval; by default the newest in the log history.
        log_history: `trainer.state.log_history`; by default that of the folder's `trainer_state.json`.
        arguments: of the training, as a dictionary; by default the folder's `training_args.json`.
        api: asked for the licences of towers that came from the Hub; without it they are left out.
    """
    from ..modeling.configuration_custom_clip import CustomClipConfig

    folder = Path(folder)
    config = CustomClipConfig.from_pretrained(folder)
    trained, total = count_parameters(read_headers(weight_files(folder)), config.to_dict())
    if log_history is None:
        log_history = (read_json(folder / "trainer_state.json") or {}).get("log_history", [])
    if arguments is None:
        arguments = read_json(folder / "training_args.json") or {}
    if data is None and (kept := read_json(folder / DATA_FILE)):
        data = DataDescription(**{**kept, "languages": tuple(kept["languages"])})
    if results is None:
        results = newest_results(log_history, data)
    card = render_model_card(
        config,
        repo_id,
        data=data,
        license=license,
        trained_parameters=trained,
        total_parameters=total,
        tower_licenses=_hub_licenses((config.vision_name, config.text_name), api) if api else None,
        settings=training_settings(arguments),
        log_history=log_history,
        curves=_draw_curves(log_history, folder),
        results=results,
    )
    return write_text(folder / "README.md", str(card))


def newest_results(
    log_history: Sequence[Mapping[str, float]],
    data: DataDescription | None,
    best_step: int | None = None,
    counts: Mapping[str, tuple[int, int]] | None = None,
) -> list[RetrievalResult]:
    """The newest recalls of the test and the validation split in `trainer.state.log_history`.

    Args:
        best_step: of the model that was loaded at the end; its recalls count, not the last ones.
        counts: images and captions of a split, where they are known.
    """
    results = []
    for prefix, split in (("test_", "test"), ("eval_", "validation")):
        needed = {prefix + name for name in RETRIEVAL_METRICS}
        measured = [entry for entry in log_history if needed <= entry.keys()]
        measured = [entry for entry in measured if entry["step"] == best_step] or measured
        if measured:
            about = data or DataDescription("its own data")
            images, captions = (counts or {}).get(split, (None, None))
            results.append(RetrievalResult(measured[-1], about, images, captions, split, prefix))
    return results


def _hub_licenses(names: Sequence[str | None], api: HfApi) -> dict[str, str]:
    """Licences that the cards of these towers state; what cannot be asked is left out."""
    licenses = {}
    for name in names:
        try:
            card = api.model_info(name).card_data if name and hub_id_of(name) else None
        except CLIENT_ERRORS:
            continue
        if name and card and card.get("license"):
            licenses[name] = str(card.get("license"))
    return licenses


def training_settings(arguments: Mapping[str, Any]) -> dict[str, object]:
    """Of training arguments as a dictionary, those that the card shows, under readable names."""
    shown = {key: arguments[key] for key in SETTINGS if arguments.get(key) not in (None, False)}
    # Steps win over epochs where they are given; -1 says they are not.
    shown.pop("num_train_epochs" if shown.get("max_steps", -1) > 0 else "max_steps", None)
    for key in ("warmup_steps", "weight_decay"):
        if shown.get(key) == 0:
            shown.pop(key)
    if shown.get("gradient_accumulation_steps") == 1:
        shown.pop("gradient_accumulation_steps")
    return {SETTINGS[key]: "yes" if value is True else value for key, value in shown.items()}


def _draw_curves(log_history: Sequence[Mapping[str, float]], folder: Path) -> str | None:
    if not any("loss" in entry for entry in log_history):
        return None
    try:
        from .._plotting import save_figure
        from ..evaluation.figures import plot_training_curves
    except ImportError:  # the curves' numbers are in the card all the same
        return None
    return save_figure(plot_training_curves(log_history), folder / "training.png").name

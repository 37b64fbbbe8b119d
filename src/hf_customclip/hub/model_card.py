"""The model card: what is known of a model, rendered from `model_card.md`. What is not known is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import HfApi, ModelCard, ModelCardData

from .._files import read_json, write_text
from .._safetensors import count_parameters, read_headers, weight_files
from .errors import CLIENT_ERRORS
from .known_data import DataDescription, hub_id_of
from .results import LANGUAGE_NAMES, RetrievalResult, newest_results

if TYPE_CHECKING:
    from ..modeling.configuration_custom_clip import CustomClipConfig

# What a run leaves in its folder for the card: the data (a `DataDescription`) and what the saved model was
# measured to do (a list of `RetrievalResult` without `data`).
DATA_FILE, RESULTS_FILE = "data.json", "retrieval_results.json"
IMAGES = {"training": "training.png", "retrieval": "retrieval.png"}
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
    "distillation_weight": "weight of the teacher's loss",
    "seed": "seed",
    "bf16": "bf16",
    "fp16": "fp16",
}
SAYS_NOTHING = {
    "max_steps": -1,
    "warmup_steps": 0,
    "weight_decay": 0,
    "gradient_accumulation_steps": 1,
    "distillation_weight": 0.3,
}
HISTORY_COLUMNS = {
    "epoch": "epoch", "step": "step", "loss": "training loss", "eval_loss": "validation loss",
    "eval_i2t_recall@1": "image to text R@1", "eval_t2i_recall@1": "text to image R@1", "eval_rsum": "rsum",
}  # fmt: skip
MAX_HISTORY_ROWS = 12


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
        license: by default the training argument `license`.
        results: measured retrieval; what the run measured of the saved model itself wins over those of the
            same split, and without any the newest of the log history are taken.
        log_history: `trainer.state.log_history`; by default that of the folder's `trainer_state.json`.
        arguments: of the training, as a dictionary; by default the folder's `training_args.json`.
        api: asked for the licences of towers that came from the Hub; without it they are left out.
    """
    from ..modeling.configuration_custom_clip import CustomClipConfig

    folder = Path(folder)
    config = CustomClipConfig.from_pretrained(folder)
    if log_history is None:
        log_history = (read_json(folder / "trainer_state.json") or {}).get("log_history", [])
    if arguments is None:
        arguments = read_json(folder / "training_args.json") or {}
    if data is None and (kept := read_json(folder / DATA_FILE)):
        data = DataDescription(**{**kept, "languages": tuple(kept["languages"])})
    measured = [RetrievalResult(**entry, data=data) for entry in read_json(folder / RESULTS_FILE) or []]
    known = {result.split for result in measured}
    logged = newest_results(log_history, data) if results is None else results
    _draw_curves(log_history, folder)
    teacher = arguments.get("teacher")
    card = render_model_card(
        config,
        repo_id,
        data=data,
        license=license or arguments.get("license"),
        parameters=count_parameters(read_headers(weight_files(folder)), config.to_dict()),
        tower_licenses=_hub_licenses((config.vision_name, config.text_name), api) if api else None,
        settings=training_settings(arguments),
        log_history=log_history,
        images={name: file for name, file in IMAGES.items() if (folder / file).is_file()},
        teacher=teacher and (hub_id_of(teacher) or Path(teacher).name),
        unpaired_images=bool(arguments.get("unpaired_images")),
        results=[*measured, *(result for result in logged if result.split not in known)],
    )
    return write_text(folder / "README.md", str(card))


def render_model_card(
    config: CustomClipConfig,
    repo_id: str,
    *,
    data: DataDescription | None = None,
    license: str | None = None,
    parameters: tuple[int | None, int] | None = None,
    tower_licenses: Mapping[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
    log_history: Sequence[Mapping[str, float]] = (),
    images: Mapping[str, str] | None = None,
    teacher: str | None = None,
    unpaired_images: bool = False,
    results: Sequence[RetrievalResult] = (),
) -> ModelCard:
    """Render `model_card.md` for a model.

    Args:
        repo_id: where it is (to be) published; stands in the examples of use.
        data: what it was trained on (`describe_data` recognises the well-known ones).
        license: the model's, as the Hub spells it; else what the data's terms ask for; else "unknown".
        parameters: how many were trained (None where that is not known), and how many there are.
        tower_licenses: by the towers' names in `config`, where known.
        settings: of the training, as they should be read.
        log_history: `trainer.state.log_history`.
        images: paths, relative to the card, of the curves of "training" and of a few "retrieval" results.
        teacher: whose similarities were soft targets in training.
        unpaired_images: whether it told them of images without captions too.
        results: measured retrieval; feeds the `model-index` too.
    """
    return ModelCard.from_template(
        _card_data(config, repo_id, data, license, results),
        template_path=str(template_path()),
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        config=config,
        towers=[_tower(config, role, tower_licenses or {}) for role in ("vision", "text")],
        parameters=parameters,
        data=data,
        settings={name: _cell(value) for name, value in (settings or {}).items()},
        images=images or {},
        teacher=teacher,
        unpaired_images=unpaired_images,
        history=_history(log_history),
        results=results,
        languages=", ".join(LANGUAGE_NAMES.get(code, code) for code in data.languages) if data else "",
    )


def template_path() -> Path:
    """`model_card.md`: beside this module in an installed package, at the repository's root in a checkout."""
    here = Path(__file__).resolve()
    for path in (here.with_name("model_card.md"), here.parents[3] / "model_card.md"):
        if path.is_file():
            return path
    raise FileNotFoundError("model_card.md is missing from this installation; install hf-customclip again.")


def training_settings(arguments: Mapping[str, Any]) -> dict[str, object]:
    """Of training arguments as a dictionary, those that the card shows, under readable names."""
    shown = {key: arguments[key] for key in SETTINGS if arguments.get(key) not in (None, False)}
    # Steps win over epochs where they are given; -1 says they are not.
    if shown.get("max_steps", -1) > 0:
        shown.pop("num_train_epochs", None)
    return {
        SETTINGS[key]: "yes" if value is True else value
        for key, value in shown.items()
        if SAYS_NOTHING.get(key) != value
    }


def _card_data(
    config: CustomClipConfig,
    repo_id: str,
    data: DataDescription | None,
    license: str | None,
    results: Sequence[RetrievalResult],
) -> ModelCardData:
    license = license or (data.license if data else None) or "unknown"
    of_data = data is not None and license == "other" == data.license
    towers = [hub_id for name in (config.vision_name, config.text_name) if (hub_id := hub_id_of(name))]
    return ModelCardData(
        language=list(data.languages) if data and data.languages else None,
        license=license,
        license_name="non-commercial-research-and-education" if of_data else None,
        license_link="https://www.flickr.com/help/terms" if of_data else None,
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "custom_clip", "hf-customclip", "dual-encoder", "image-text-retrieval"],
        base_model=towers or None,
        datasets=[data.hub_id] if data and data.hub_id else None,
        metrics=["recall"] if results else None,
        model_name=repo_id.split("/")[-1] if results else None,
        eval_results=[entry for result in results for entry in result.eval_results()] or None,
    )


def _tower(config: CustomClipConfig, role: str, licenses: Mapping[str, str]) -> dict[str, str | None]:
    name, tower_config = getattr(config, f"{role}_name"), getattr(config, f"{role}_config")
    link, license = f"a {tower_config.model_type} encoder", licenses.get(name or "")
    if tower_config.model_type == "torchvision_backbone":
        architecture = tower_config.architecture
        page = f"https://docs.pytorch.org/vision/main/models/generated/torchvision.models.{architecture}.html"
        link = f"torchvision's [`{architecture}`]({page})"
        license = license or "BSD-3-Clause; pretrained weights may carry the terms of the data they saw"
    elif hub_id := hub_id_of(name):
        link = f"[`{hub_id}`](https://huggingface.co/{hub_id})"
    elif tower_config.model_type == "timm_wrapper":
        link = f"timm's `{tower_config.architecture}`"
    groups = getattr(config, f"{role}_unfrozen_groups")
    frozen = f"frozen but for the last {groups} layer groups" if groups else "frozen"
    training = frozen if getattr(config, f"freeze_{role}") else "trained"
    return {
        "role": "image" if role == "vision" else "text",
        "link": link,
        "training": training,
        "license": license,
    }


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


def _history(log_history: Sequence[Mapping[str, float]]) -> dict[str, list[Any]] | None:
    """Evaluations with the training loss logged before each; without evaluations, the training losses.

    Of several evaluations at one step the first counts: a later one may be of the best model, loaded again.
    """
    rows: dict[float, dict[str, float]] = {}
    loss: float | None = None
    evaluated = any("eval_loss" in entry for entry in log_history)
    for entry in log_history:
        loss = entry.get("loss", loss)
        if ("eval_loss" if evaluated else "loss") in entry:
            rows.setdefault(entry["step"], {**entry, **({} if loss is None else {"loss": loss})})
    if not rows:
        return None
    # Evenly spaced, the last one always among them.
    chosen = list(rows.values())[::-1][:: -(-len(rows) // MAX_HISTORY_ROWS)][::-1]
    shown = [key for key in HISTORY_COLUMNS if any(key in row for row in chosen)]
    cells = [[f"{row[key]:.4g}" if key in row else "" for key in shown] for row in chosen]
    return {"columns": [HISTORY_COLUMNS[key] for key in shown], "rows": cells}


def _cell(value: object) -> str:
    """A value that stays inside its cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _draw_curves(log_history: Sequence[Mapping[str, float]], folder: Path) -> None:
    if not any("loss" in entry for entry in log_history):
        return
    try:
        from ..plotting import plot_training_curves, save_figure
    except ImportError:  # the curves' numbers are in the card all the same
        return
    save_figure(plot_training_curves(log_history), folder / IMAGES["training"])

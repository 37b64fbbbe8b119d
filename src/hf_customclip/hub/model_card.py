"""The model card: what is known of a model, rendered from `model_card.md`. What is not known is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .known_data import DataDescription, hub_id_of

if TYPE_CHECKING:
    from ..modeling.configuration_custom_clip import CustomClipConfig

CLIP_PAPER = """@inproceedings{radford2021learning,
  title     = {Learning Transferable Visual Models From Natural Language Supervision},
  author    = {Radford, Alec and Kim, Jong Wook and Hallacy, Chris and Ramesh, Aditya and Goh, Gabriel and Agarwal, Sandhini and Sastry, Girish and Askell, Amanda and Mishkin, Pamela and Clark, Jack and Krueger, Gretchen and Sutskever, Ilya},
  booktitle = {International Conference on Machine Learning},
  year      = {2021}
}"""  # noqa: E501
SIGLIP_PAPER = """@inproceedings{zhai2023sigmoid,
  title     = {Sigmoid Loss for Language Image Pre-Training},
  author    = {Zhai, Xiaohua and Mustafa, Basil and Kolesnikov, Alexander and Beyer, Lucas},
  booktitle = {IEEE/CVF International Conference on Computer Vision},
  year      = {2023}
}"""
LANGUAGE_NAMES = {
    "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian", "ja": "Japanese",
    "ko": "Korean", "pt": "Portuguese", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip
HISTORY_COLUMNS = {
    "epoch": "epoch", "step": "step", "loss": "training loss", "eval_loss": "validation loss",
    "eval_i2t_recall@1": "image to text R@1", "eval_t2i_recall@1": "text to image R@1", "eval_rsum": "rsum",
}  # fmt: skip
MAX_HISTORY_ROWS = 12


@dataclass(frozen=True)
class RetrievalResult:
    """Retrieval metrics of one split, by the contract's names.

    Args:
        metrics: `i2t_recall@1`, …, `rsum`, each with `prefix` before it.
        data, split: what was evaluated.
        num_images, num_captions: its size, stated in the protocol where known.
        prefix: what the names in `metrics` begin with, such as "eval_" or "test_".
        chance: what ranking by chance would give, by the names without prefix.
    """

    metrics: Mapping[str, float]
    data: DataDescription
    num_images: int | None = None
    num_captions: int | None = None
    split: str | None = None
    prefix: str = ""
    chance: Mapping[str, float] | None = None

    @property
    def protocol(self) -> str:
        """How it was measured, in words."""
        sentences = [
            "Image to text, an image counts as found at K if any of its captions is among its first K; text "
            "to image, each caption looks for its one image. Recalls are in per cent."
        ]
        if self.num_images is not None and self.num_captions is not None:
            held_out = ", held out" if self.split in ("test", "val", "validation") else ""
            sentences.insert(0, f"{self.num_images:,} images and {self.num_captions:,} captions{held_out}.")
            if self.num_images != 1000:
                sentences.append("With so many candidates they do not compare with those over 1,000.")
        return " ".join(sentences)

    @property
    def rows(self) -> list[list[str]]:
        """Table rows, recalls in per cent; chance below each direction where it is known."""
        rows = []
        for way, label in (("i2t", "image to text"), ("t2i", "text to image")):
            rows.append([label, *_cells(self.metrics, f"{self.prefix}{way}_")])
            if self.chance is not None:
                rows.append(["by chance", *_cells(self.chance, f"{way}_")])
        return rows

    @property
    def rsum(self) -> str:
        """The sum of the six recalls in per cent."""
        return f"{self.metrics[self.prefix + 'rsum']:.1f}"


def render_model_card(
    config: CustomClipConfig,
    repo_id: str,
    *,
    data: DataDescription | None = None,
    license: str | None = None,
    trained_parameters: int | None = None,
    total_parameters: int | None = None,
    tower_licenses: Mapping[str, str] | None = None,
    settings: Mapping[str, object] | None = None,
    log_history: Sequence[Mapping[str, float]] = (),
    curves: str | None = None,
    results: Sequence[RetrievalResult] = (),
) -> ModelCard:
    """Render `model_card.md` for a model.

    Args:
        repo_id: where it is (to be) published; stands in the examples of use.
        data: what it was trained on (`describe_data` recognises the well-known ones).
        license: the model's, as the Hub spells it; else what the data's terms ask for; else "unknown".
        tower_licenses: by the towers' names in `config`, where known.
        settings: of the training, as they should be read.
        log_history: `trainer.state.log_history`.
        curves: path of an image of it, relative to the card.
        results: measured retrieval; feeds the `model-index` too.
    """
    return ModelCard.from_template(
        _card_data(config, repo_id, data, license, results),
        template_path=str(template_path()),
        title=repo_id.split("/")[-1],
        repo_id=repo_id,
        config=config,
        towers=_towers(config, tower_licenses or {}),
        head=_head(config),
        loss=_loss(config),
        trained_parameters=trained_parameters,
        total_parameters=total_parameters,
        data=data,
        settings={name: _cell(value) for name, value in (settings or {}).items()},
        curves=curves,
        history=_history(log_history),
        results=results,
        languages=_language_names(data),
        multilingual="multilingual" in (config.text_name or ""),
        citations=_citations(config, data),
    )


def template_path() -> Path:
    """`model_card.md`: beside this module in an installed package, at the repository's root in a checkout."""
    here = Path(__file__).resolve()
    for path in (here.with_name("model_card.md"), here.parents[3] / "model_card.md"):
        if path.is_file():
            return path
    raise FileNotFoundError("model_card.md is missing from this installation; install hf-customclip again.")


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
        eval_results=[entry for result in results for entry in _eval_results(result)] or None,
    )


def _eval_results(result: RetrievalResult) -> list[EvalResult]:
    from ..evaluation.reports import retrieval_eval_results

    return retrieval_eval_results(
        result.metrics,
        dataset_type=result.data.hub_id or result.data.name.lower().replace(" ", "-"),
        dataset_name=result.data.name,
        dataset_split=result.split,
        prefix=result.prefix,
    )


def _towers(config: CustomClipConfig, licenses: Mapping[str, str]) -> list[dict[str, str | None]]:
    return [_tower(config, role, licenses) for role in ("vision", "text")]


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
    groups = getattr(config, f"{role}_unfrozen_groups")
    frozen = f"frozen but for the last {groups} layer groups" if groups else "frozen"
    training = frozen if getattr(config, f"freeze_{role}") else "trained"
    label = "image" if role == "vision" else "text"
    return {"role": label, "link": link, "training": training, "license": license}


def _head(config: CustomClipConfig) -> str:
    if config.projection_type == "linear":
        return "one linear layer for each tower"
    return (
        "for each tower two linear layers with a residual, a layer norm and dropout "
        f"{config.projection_dropout:g}"
    )


def _loss(config: CustomClipConfig) -> str:
    if config.loss_type == "sigmoid":
        return "sigmoid (SigLIP's)"
    if config.learn_logit_scale:
        temperature = "a learned temperature"
    else:
        temperature = "a fixed temperature" if config.logit_scale_init_value else "no temperature"
    return f"symmetric cross-entropy over the batch (CLIP's), with {temperature}"


def _history(log_history: Sequence[Mapping[str, float]]) -> dict[str, list[Any]] | None:
    """Evaluations with the training loss logged before each; without evaluations, the training losses."""
    rows: list[dict[str, float]] = []
    loss: float | None = None
    evaluated = any("eval_loss" in entry for entry in log_history)
    for entry in log_history:
        loss = entry.get("loss", loss)
        if ("eval_loss" if evaluated else "loss") in entry:
            rows.append({**entry, **({} if loss is None else {"loss": loss})})
    if not rows:
        return None
    # Evenly spaced, the last one always among them.
    stride = -(-len(rows) // MAX_HISTORY_ROWS)
    rows = rows[::-1][::stride][::-1]
    shown = [key for key in HISTORY_COLUMNS if any(key in row for row in rows)]
    cells = [[f"{row[key]:.4g}" if key in row else "" for key in shown] for row in rows]
    return {"columns": [HISTORY_COLUMNS[key] for key in shown], "rows": cells}


def _cells(metrics: Mapping[str, float], prefix: str) -> list[str]:
    recalls = [f"{100 * metrics[f'{prefix}recall@{k}']:.1f}" for k in (1, 5, 10)]
    return [*recalls, f"{metrics[f'{prefix}median_rank']:.1f}"]


def _cell(value: object) -> str:
    """A value that stays inside its cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _language_names(data: DataDescription | None) -> str:
    return ", ".join(LANGUAGE_NAMES.get(code, code) for code in data.languages) if data else ""


def _citations(config: CustomClipConfig, data: DataDescription | None) -> list[str]:
    cited = [CLIP_PAPER, SIGLIP_PAPER if config.loss_type == "sigmoid" else None]
    return [entry for entry in [*cited, data.citation if data else None] if entry]

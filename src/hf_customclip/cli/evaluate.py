"""`hf-customclip evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import BatchSize, Model, can_draw

HELP = """Measure a model, beside chance: retrieval by the papers' protocol, or zero-shot classification.

\b
    hf-customclip evaluate outputs/sample examples/sample
    hf-customclip evaluate user/custom-clip-flickr30k flickr30k/ --split test --plots images/
    hf-customclip evaluate outputs/sample examples/sample --label-column group --template "{}"

Retrieval gives recalls both ways, ranks and rsum. With --label-column, images are classified among the
names of their classes; the data are then a Hub id or a folder with one subfolder for each class.
"""


def evaluate(
    model: Model,
    data: Annotated[str, typer.Argument(help="Images with captions: a folder, a file or a Hub id.")],
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "test",
    label_column: Annotated[
        str | None, typer.Option(help="Classify: the column that holds the images' classes.")
    ] = None,
    template: Annotated[
        list[str] | None,
        typer.Option(help="With {} for a class; may be given several times, to be averaged."),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(callback=can_draw, help="Folder for images of the results.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for all_results.json and model_index.json.")
    ] = None,
    batch_size: BatchSize = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Measure one split, print, and write what was asked for."""
    from ..inference.load_model import load_model

    loaded = load_model(model)
    about = {"dataset_type": Path(data).name, "dataset_name": Path(data).name, "dataset_split": split}
    if label_column is None:
        metrics, table, results, draw = _retrieval(*loaded, data, split, batch_size, about, Path(model))
    else:
        metrics, table, results, draw = _classification(
            *loaded, data, split, label_column, template, batch_size, about
        )
    metrics = {f"eval_{name}": value for name, value in metrics.items()}
    print(json.dumps(metrics, indent=2) if as_json else f"{model} on {data}, {split}: {table}")
    if output is not None:
        _write_results(output, metrics, Path(model).name, results)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for file in draw(plots):
            typer.echo(f"wrote {file}", err=True)


def _retrieval(
    model: Any, processor: Any, data: str, split: str, batch_size: int, about: dict[str, Any], folder: Path
) -> tuple[Any, ...]:
    """Metrics, table, entries for a model index, and what draws the images."""
    from ..data import load_image_text_dataset
    from ..evaluation import embed_dataset, format_retrieval_table, retrieval_chance, retrieval_eval_results

    dataset: Any = load_image_text_dataset(data, split=split)
    embedded = embed_dataset(model, processor, dataset, batch_size)
    metrics = embedded.metrics()
    chance = retrieval_chance(embedded.image_ids, embedded.text_image_ids)
    size = f"{len(dataset)} images, {len(embedded.text_embeds)} captions"

    def draw(plots: Path) -> list[Path]:
        from .._files import read_json
        from ..evaluation.plots import write_retrieval_plots

        history = (read_json(folder / "trainer_state.json") or {}).get("log_history")
        return write_retrieval_plots(plots, dataset, embedded, log_history=history)

    table = f"{size}\n{format_retrieval_table(metrics, chance)}"
    return metrics, table, retrieval_eval_results(metrics, **about), draw


def _classification(
    model: Any,
    processor: Any,
    data: str,
    split: str,
    label_column: str,
    templates: list[str] | None,
    batch_size: int,
    about: dict[str, Any],
) -> tuple[Any, ...]:
    """The same four for zero-shot classification."""
    from ..data.load import load_labelled_images
    from ..evaluation import classification_eval_results, format_classification_table
    from ..inference import ZeroShotClassifier
    from ..inference.zero_shot import DEFAULT_TEMPLATES

    dataset, labels = load_labelled_images(data, split, label_column)
    classifier = ZeroShotClassifier(model, processor, labels, templates or DEFAULT_TEMPLATES, batch_size)
    result = classifier.evaluate(dataset)

    def draw(plots: Path) -> list[Path]:
        from .._plotting import save_figure
        from ..evaluation.figures import plot_confusion_matrix

        return [save_figure(plot_confusion_matrix(result.confusion_matrix, labels), plots / "confusion.png")]

    table = f"{len(dataset)} images, {len(labels)} classes\n"
    table += format_classification_table(result.metrics, len(labels))
    return result.metrics, table, classification_eval_results(result.metrics, **about), draw


def _write_results(folder: Path, metrics: dict[str, float], name: str, results: list[Any]) -> None:
    from huggingface_hub.repocard_data import eval_results_to_model_index

    from .._files import read_json, write_json

    folder.mkdir(parents=True, exist_ok=True)
    known = {**(read_json(folder / "all_results.json") or {}), **metrics}
    write_json(folder / "all_results.json", dict(sorted(known.items())))
    write_json(folder / "model_index.json", eval_results_to_model_index(name, results))

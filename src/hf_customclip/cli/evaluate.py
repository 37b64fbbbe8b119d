"""`hf-customclip evaluate` and `hf-customclip compare`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .data_options import DataOptions
from .held_out import HeldOut, OverlapOption, OverlapPolicy, check_overlap, load_held_out
from .options import BatchSize, Model, can_draw, takes_options
from .output import Output, flat

if TYPE_CHECKING:
    from ..evaluation.retrieval import RetrievalRanks

HELP = """Measure a model, beside chance: retrieval by the papers' protocol, or zero-shot classification.

\b
    hf-customclip evaluate outputs/sample examples/sample
    hf-customclip evaluate user/custom-clip-flickr30k flickr30k/ --split test --plots images/
    hf-customclip evaluate outputs/shop products.csv --shared-captions
    hf-customclip evaluate outputs/sample examples/sample --by-language
    hf-customclip evaluate outputs/sample examples/sample --label-column group --template "{}"

Retrieval gives recalls both ways with their 95 % intervals, ranks and rsum. A model that this package trained
knows its data: they are divided as then, and images that it was trained on are refused. With --label-column,
images are classified among the names of their classes; the data are then a Hub id or a folder with one
subfolder for each class.
"""
COMPARE_HELP = """Measure two models on the same held-out data: is the second one better, or is it luck?

\b
    hf-customclip compare openai/clip-vit-base-patch32 outputs/mine my-images/
    hf-customclip compare outputs/mine outputs/mine-longer my-images/ --json

Any CLIP or SigLIP of transformers is a valid peer. Differences are of the second model to the first, with 95 %
intervals over the same draws of images (paired bootstrap); those that leave out 0 are marked.
"""
PEER = "openai/clip-vit-base-patch32"
DataArgument = Annotated[str, typer.Argument(help="Images with captions: a folder, a file or a Hub id.")]
SharedCaptions = Annotated[
    bool,
    typer.Option(
        "--shared-captions",
        help="Beside the papers' protocol: equal captions, and images of a group, are right for each other.",
    ),
]
SplitOption = Annotated[str, typer.Option(help="Which split of the data.")]


@dataclass
class Measured:
    """What `evaluate` prints and writes."""

    metrics: dict[str, Any]
    table: str
    results: list[Any]
    draw: Callable[[Path], list[Path]]
    notes: list[str] = field(default_factory=list)


@takes_options
def evaluate(
    model: Model,
    data: DataArgument,
    data_options: DataOptions,
    printed: Output,
    split: SplitOption = "test",
    overlap: OverlapOption = OverlapPolicy.refuse,
    shared_captions: SharedCaptions = False,
    by_language: Annotated[
        bool,
        typer.Option("--by-language", help="Measure each language of the captions alone, and their mean."),
    ] = False,
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
) -> None:
    """Measure one split, print, and write what was asked for."""
    about = {"dataset_type": Path(data).name, "dataset_name": Path(data).name, "dataset_split": split}
    if label_column is None:
        if by_language and not data_options.languages:
            data_options = replace(data_options, languages=["all"])
        held_out = load_held_out([model], data, split, data_options, overlap)
        measure = _by_language if by_language else partial(_retrieval, shared_captions=shared_captions)
        measured = measure(model, held_out, batch_size=batch_size, about=about)
    else:
        measured = _classification(model, data, split, overlap, label_column, template, batch_size, about)
    metrics = {f"eval_{name}": value for name, value in measured.metrics.items()}
    for note in measured.notes:
        typer.echo(note, err=True)
    printed.show(table=f"{model} on {data}, {split}: {measured.table}", value=metrics, rows=[flat(metrics)])
    if output is not None:
        _write_results(output, metrics, Path(model).name, measured.results)
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        for file in measured.draw(plots):
            typer.echo(f"wrote {file}", err=True)
    printed.say_next("hf-customclip", "compare", PEER, model, data)


@takes_options
def compare(
    first: Annotated[str, typer.Argument(help="A saved folder or a Hub id.")],
    second: Annotated[str, typer.Argument(help="Another one.")],
    data: DataArgument,
    data_options: DataOptions,
    printed: Output,
    split: SplitOption = "test",
    overlap: OverlapOption = OverlapPolicy.refuse,
    shared_captions: SharedCaptions = False,
    batch_size: BatchSize = 64,
) -> None:
    """Measure both on the same rows, and print their differences."""
    from ..evaluation import format_comparison_table, paired_differences, retrieval_chance

    held_out = load_held_out([first, second], data, split, data_options, overlap)
    measured = [_embed(model, held_out, batch_size) for model in (first, second)]
    embedded, ranks = measured[0][0], [both[1 if shared_captions else 0] for _, both in measured]
    found = paired_differences(ranks[0], ranks[1])
    chance = retrieval_chance(embedded.image_ids, embedded.text_image_ids)
    for note in held_out.notes:
        typer.echo(note, err=True)
    rows = [
        {
            "metric": name,
            "by_chance": chance[name],
            "first": d.first,
            "second": d.second,
            "difference": d.difference,
            "low": d.low,
            "high": d.high,
        }
        for name, d in found.items()
    ]
    size = f"{len(ranks[0].images)} images, {len(ranks[0].texts)} captions"
    printed.show(
        table=f"{data}, {split}: {size}\nfirst   {first}\nsecond  {second}\n{format_comparison_table(found, chance)}",
        value={"first": first, "second": second, "images": len(ranks[0].images), "metrics": rows},
        rows=rows,
    )
    printed.say_next("hf-customclip", "index", second, "IMAGES", "INDEX")


def _embed(model: str, held_out: HeldOut, batch_size: int) -> tuple[Any, list[RetrievalRanks]]:
    """The split's embeddings, and its ranks by the papers' protocol and with shared captions."""
    from ..data.shared_captions import text_groups
    from ..evaluation import embed_dataset, ranks_both_ways
    from ..inference.load_model import load_model

    embedded = embed_dataset(*load_model(model), held_out.dataset, batch_size)
    sides = embedded.image_embeds, embedded.text_embeds, embedded.image_ids, embedded.text_image_ids
    return embedded, [ranks_both_ways(*sides), ranks_both_ways(*sides, text_groups(held_out.dataset))]


def _by_language(model: str, held_out: HeldOut, batch_size: int, about: dict[str, Any]) -> Measured:
    """Each language alone, and as the numbers of the whole their mean."""
    from ..evaluation import embed_dataset, retrieval_eval_results
    from ..evaluation.languages import format_language_table
    from ..evaluation.plots import write_retrieval_plots
    from ..evaluation.reports import languages_of
    from ..inference.load_model import load_model

    embedded = embed_dataset(*load_model(model), held_out.dataset, batch_size)
    metrics = embedded.metrics()
    if not languages_of(metrics):
        raise ValueError(
            "The captions are in one language, or do not tell theirs: --by-language needs columns such as "
            "captions_de or a column named language."
        )
    size = f"{len(held_out.dataset)} images, {len(embedded.text_embeds)} captions"
    return Measured(
        metrics,
        f"{size}\n{format_language_table(metrics, held_out.languages)}",
        retrieval_eval_results(metrics, **about),
        partial(write_retrieval_plots, dataset=held_out.dataset, embedded=embedded),
        held_out.notes,
    )


def _retrieval(
    model: str, held_out: HeldOut, shared_captions: bool, batch_size: int, about: dict[str, Any]
) -> Measured:
    from .._files import read_json
    from ..evaluation import (
        bootstrap_intervals,
        format_retrieval_table,
        retrieval_chance,
        retrieval_eval_results,
    )
    from ..evaluation.corrected import corrected_retrieval_metrics, format_corrected
    from ..evaluation.low_recall import notes_of_chance, notes_of_shared_captions
    from ..inference.hubness import HubnessBank

    dataset = held_out.dataset
    embedded, (ranks, shared) = _embed(model, held_out, batch_size)
    metrics: dict[str, Any] = ranks.metrics()
    intervals = bootstrap_intervals(ranks)
    chance = retrieval_chance(embedded.image_ids, embedded.text_image_ids)
    size = f"{len(ranks.images)} images, {len(ranks.texts)} captions"
    table = f"{size}\n{format_retrieval_table(metrics, chance, intervals)}"
    results = retrieval_eval_results(metrics, **about)
    metrics |= {
        "intervals": intervals,
        "chance": chance,
        "images": len(ranks.images),
        "captions": len(ranks.texts),
    }
    metrics |= {"trained_on_images": held_out.trained, "near_trained_images": held_out.alike}
    if (bank := HubnessBank.load(model)) is not None:
        ids = embedded.image_ids, embedded.text_image_ids
        corrected = corrected_retrieval_metrics(embedded.image_embeds, embedded.text_embeds, *ids, bank)
        metrics |= corrected
        table += f"\n\n{format_corrected(corrected)}"
    notes = held_out.notes + notes_of_chance(ranks.metrics(), chance, intervals)
    if not shared_captions:
        notes += notes_of_shared_captions(dataset)
    else:
        metrics["shared_captions"] = shared.metrics()
        table += "\n\nequal captions and images of a group are right for each other:\n"
        table += format_retrieval_table(shared.metrics(), intervals=bootstrap_intervals(shared))

    def draw(plots: Path) -> list[Path]:
        from ..evaluation.plots import write_retrieval_plots

        history = (read_json(Path(model) / "trainer_state.json") or {}).get("log_history")
        return write_retrieval_plots(plots, dataset, embedded, log_history=history)

    return Measured(metrics, table, results, draw, notes)


def _classification(
    model: str,
    data: str,
    split: str,
    overlap: OverlapPolicy,
    label_column: str,
    templates: list[str] | None,
    batch_size: int,
    about: dict[str, Any],
) -> Measured:
    from ..data.load import load_labelled_images
    from ..evaluation import classification_eval_results, format_classification_table
    from ..evaluation.overlap import read_training_record
    from ..inference import ZeroShotClassifier
    from ..inference.load_model import load_model
    from ..inference.zero_shot import DEFAULT_TEMPLATES

    dataset, labels = load_labelled_images(data, split, label_column)
    held_out = HeldOut(dataset)
    check_overlap(held_out, {model: read_training_record(model)}, split, overlap)
    classifier = ZeroShotClassifier(*load_model(model), labels, templates or DEFAULT_TEMPLATES, batch_size)
    result = classifier.evaluate(held_out.dataset)

    def draw(plots: Path) -> list[Path]:
        from ..plotting import plot_confusion_matrix, save_figure

        return [save_figure(plot_confusion_matrix(result.confusion_matrix, labels), plots / "confusion.png")]

    table = f"{len(held_out.dataset)} images, {len(labels)} classes\n"
    table += format_classification_table(result.metrics, len(labels))
    results = classification_eval_results(result.metrics, **about)
    metrics = result.metrics | {"images": len(held_out.dataset), "trained_on_images": held_out.trained}
    return Measured(metrics, table, results, draw, held_out.notes)


def _write_results(folder: Path, metrics: dict[str, float], name: str, results: list[Any]) -> None:
    from huggingface_hub.repocard_data import eval_results_to_model_index

    from .._files import read_json, write_json

    folder.mkdir(parents=True, exist_ok=True)
    known = {**(read_json(folder / "all_results.json") or {}), **metrics}
    write_json(folder / "all_results.json", dict(sorted(known.items())))
    write_json(folder / "model_index.json", eval_results_to_model_index(name, results))

"""What a run ends with: the numbers of the model as it was saved, loaded back as anybody would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import pipeline

from .._files import write_json
from ..data.images import decode_image, to_rgb
from ..evaluation.embedded_dataset import EmbeddedDataset, embed_dataset
from ..evaluation.intervals import bootstrap_intervals
from ..evaluation.languages import chance_by_language, format_language_table
from ..evaluation.low_recall import notes_of_chance, notes_of_shared_captions, notes_of_start
from ..evaluation.reports import format_retrieval_table, languages_of
from ..evaluation.retrieval import ranks_both_ways
from ..hub.model_card import RESULTS_FILE
from ..inference.load_model import load_model

PREFIXES = {"validation": "eval", "test": "test"}


def report_saved_model(
    folder: Path,
    splits: Mapping[str, Dataset],
    trained_languages: list[str],
    log_history: Sequence[Mapping[str, float]],
) -> dict[str, float]:
    """Measure the folder's model on the splits held out, print the test split's numbers, else the validation's.

    Returns:
        `eval_…` and `test_…` metrics, the same that `hf-customclip evaluate` gives on these splits; with chance
        and intervals they are in the folder's file for the model card, too.
    """
    held_out = {name: splits[name] for name in PREFIXES if name in splits}
    if not held_out:
        return {}
    model, processor = load_model(folder)
    embedded = {name: embed_dataset(model, processor, dataset) for name, dataset in held_out.items()}
    results = [{"split": name, **_measured(found)} for name, found in embedded.items()]
    write_json(folder / RESULTS_FILE, results)
    last = list(held_out)[-1]
    print(
        f"\n{folder} loaded back with AutoModel and AutoProcessor; {last} split, {len(held_out[last])} images "
        "never trained on:"
    )
    _print_tables(results[-1], trained_languages)
    for note in _notes(results, held_out[last], log_history):
        print(f"\n{note}")
    _show_pipeline(folder, held_out[last])
    _draw(folder / "retrieval.png", embedded[last], held_out[last])
    return {
        f"{PREFIXES[result['split']]}_{name}": value
        for result in results
        for name, value in result["metrics"].items()
    }


def _measured(embedded: EmbeddedDataset) -> dict[str, Any]:
    ids = embedded.image_ids, embedded.text_image_ids
    ranks = ranks_both_ways(embedded.image_embeds, embedded.text_embeds, *ids)
    metrics = embedded.metrics()
    return {
        "num_images": len(ranks.images),
        "num_captions": len(ranks.texts),
        "metrics": metrics,
        "chance": chance_by_language(*ids, languages=embedded.languages),
        "intervals": None if languages_of(metrics) else bootstrap_intervals(ranks),
    }


def _print_tables(result: dict[str, Any], trained_languages: list[str]) -> None:
    print(format_retrieval_table(result["metrics"], result["chance"], result["intervals"]))
    if languages_of(result["metrics"]):
        table = format_language_table(result["metrics"], trained_languages)
        print(f"\nEach language alone; above is their mean:\n{table}")


def _notes(
    results: list[dict[str, Any]], dataset: Dataset, log_history: Sequence[Mapping[str, float]]
) -> list[str]:
    """What is amiss with the numbers of the last split; beside those before the first step, of the validation split."""
    last = results[-1]
    notes = notes_of_chance(last["metrics"], last["chance"], last["intervals"])
    start = [entry["eval_rsum"] for entry in log_history if entry["step"] == 0 and "eval_rsum" in entry]
    if start and results[0]["split"] == "validation":
        notes += notes_of_start(results[0]["metrics"]["rsum"], start[0])
    return notes + notes_of_shared_captions(dataset)


def _show_pipeline(folder: Path, dataset: Dataset) -> None:
    labels = list(dict.fromkeys(captions[0] for captions in dataset[: min(5, len(dataset))]["captions"]))
    image = to_rgb(decode_image(dataset[0]["image"]))
    answer = pipeline("zero-shot-image-classification", model=str(folder))(
        image, candidate_labels=labels, hypothesis_template="{}"
    )
    print(f"\npipeline('zero-shot-image-classification') on an image of {labels[0]!r}:")
    for guess in answer:
        print(f"  {guess['score']:.3f}  {guess['label']}")


def _draw(file: Path, embedded: EmbeddedDataset, dataset: Dataset) -> None:
    try:
        from ..evaluation.plots import plot_retrieval_grid
    except ImportError:
        print("\nNo image of the results: pip install 'hf-customclip[plots]' brings matplotlib.")
        return
    plot_retrieval_grid(embedded, dataset, file)
    print(f"\nA few queries with their top images: {file}")

"""Measured numbers as a terminal table and as the `model-index` data of a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from .intervals import Difference

WAYS = {"i2t": "image to text", "t2i": "text to image"}
_RETRIEVAL_COLUMNS = {
    "recall@1": "R@1",
    "recall@5": "R@5",
    "recall@10": "R@10",
    "median_rank": "median rank",
    "mean_rank": "mean rank",
}
# What `retrieval_metrics` gives.
RETRIEVAL_METRICS = (*(f"{way}_{name}" for way in WAYS for name in _RETRIEVAL_COLUMNS), "rsum")
_CLASSIFICATION_NAMES = {
    "accuracy": "Top-1 accuracy",
    "top5_accuracy": "Top-5 accuracy",
    "mean_per_class_recall": "Mean per-class recall",
}


def format_retrieval_table(
    metrics: Mapping[str, float],
    chance: Mapping[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    prefix: str = "",
) -> str:
    """`retrieval_metrics` as a table for the terminal, each direction above its interval and chance values.

    `prefix` is what the metric names start with beyond the library's own, such as `eval_`.
    """
    rows = [["", *_RETRIEVAL_COLUMNS.values()]]
    for way, label in WAYS.items():
        rows.append([label, *_retrieval_cells(metrics, f"{prefix}{way}_")])
        if intervals is not None:
            names = [f"{way}_{key}" for key in _RETRIEVAL_COLUMNS]
            rows.append(["  95 % interval", *(_interval(intervals.get(name)) for name in names)])
        if chance is not None:
            rows.append(["  by chance", *_retrieval_cells(chance, f"{way}_")])
    rsum = f"rsum {metrics[prefix + 'rsum']:.1f} of 600"
    beside = [f"95 % interval {_interval(intervals['rsum'], 1)}"] if intervals is not None else []
    beside += [f"by chance {chance['rsum']:.1f}"] if chance is not None else []
    return f"{align(rows)}\n{rsum}{' (' + ', '.join(beside) + ')' if beside else ''}"


def format_comparison_table(differences: Mapping[str, Difference], chance: Mapping[str, float]) -> str:
    """`paired_differences` as a table for the terminal; what is no luck at 95 % is marked with a star."""
    rows = [["", "by chance", "first", "second", "difference", "95 % interval", ""]]
    for name, each in differences.items():
        way, _, metric = name.partition("_")
        label = f"{WAYS[way]} {_RETRIEVAL_COLUMNS[metric]}" if way in WAYS else f"{name} of 600"
        digits = 1 if name == "rsum" else 4
        values = [f"{value:.{digits}f}" for value in (chance[name], each.first, each.second)]
        bounds = f"{each.low:+.{digits}f} to {each.high:+.{digits}f}"
        rows.append([label, *values, f"{each.difference:+.{digits}f}", bounds, "*" if each.is_clear else ""])
    clear = any(each.is_clear for each in differences.values())
    return align(rows) + ("\n* the interval leaves out 0" if clear else "\nno difference is clear of luck")


def _interval(bounds: tuple[float, float] | None, digits: int = 3) -> str:
    return "" if bounds is None else f"{bounds[0]:.{digits}f}-{bounds[1]:.{digits}f}"


def format_classification_table(metrics: Mapping[str, float], num_labels: int) -> str:
    """`ClassificationResult.metrics` as a table for the terminal, next to chance for `num_labels` labels."""
    chance = {
        "accuracy": 1 / num_labels,
        "top5_accuracy": min(1, 5 / num_labels),
        "mean_per_class_recall": 1 / num_labels,
    }
    rows = [["", "measured", "by chance"]]
    rows += [
        [name, f"{metrics[key]:.4f}", f"{chance[key]:.4f}"] for key, name in _CLASSIFICATION_NAMES.items()
    ]
    return align(rows)


def retrieval_eval_results(
    metrics: Mapping[str, float],
    *,
    dataset_type: str,
    dataset_name: str,
    dataset_split: str | None = None,
    prefix: str = "",
) -> list[EvalResult]:
    """What a model card's `model-index` needs: the recalls, median ranks and rsum of one data set.

    Args:
        metrics: from `retrieval_metrics` or the trainer.
        dataset_type: the data set's Hub id, or a short name where it has none.
        dataset_name: its name for readers.
        dataset_split: the split that was evaluated.
        prefix: what the names in `metrics` start with beyond the library's own, such as `eval_`.
    """
    named = {
        f"{way}_{metric}": f"{label.capitalize()} {column}"
        for metric, column in _RETRIEVAL_COLUMNS.items()
        if metric != "mean_rank"
        for way, label in WAYS.items()
    } | {"rsum": "Sum of the six recalls (of 600)"}
    task = ("image-text-retrieval", "Image-text retrieval")
    results = []
    for language in ["", *languages_of(metrics, prefix)]:
        end = language and f"_{language}"
        values = {f"{key}{end}": metrics[f"{prefix}{key}{end}"] for key in named}
        names = {f"{key}{end}": f"{name} ({language})" if language else name for key, name in named.items()}
        results += _eval_results(task, values, names, dataset_type, dataset_name, dataset_split)
    return results


def languages_of(metrics: Mapping[str, float], prefix: str = "") -> list[str]:
    """The languages that metrics were measured in, by the names `{prefix}rsum_{language}`."""
    start = f"{prefix}rsum_"
    return [name.removeprefix(start) for name in metrics if name.startswith(start)]


def classification_eval_results(
    metrics: Mapping[str, float], *, dataset_type: str, dataset_name: str, dataset_split: str | None = None
) -> list[EvalResult]:
    """What a model card's `model-index` needs for zero-shot classification of one data set."""
    values = {key: metrics[key] for key in _CLASSIFICATION_NAMES}
    task = ("zero-shot-image-classification", "Zero-shot image classification")
    return _eval_results(task, values, _CLASSIFICATION_NAMES, dataset_type, dataset_name, dataset_split)


def _eval_results(
    task: tuple[str, str],
    values: Mapping[str, float],
    names: Mapping[str, str],
    dataset_type: str,
    dataset_name: str,
    dataset_split: str | None,
) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type=task[0],
            task_name=task[1],
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            dataset_split=dataset_split,
            metric_type=key,
            metric_name=names[key],
            metric_value=round(value, 6),
        )
        for key, value in values.items()
    ]


def _retrieval_cells(metrics: Mapping[str, float], prefix: str) -> list[str]:
    return [f"{metrics[prefix + key]:.{1 if key.endswith('rank') else 4}f}" for key in _RETRIEVAL_COLUMNS]


def align(rows: list[list[str]]) -> str:
    """Rows of cells as a table for the terminal: the first column to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )

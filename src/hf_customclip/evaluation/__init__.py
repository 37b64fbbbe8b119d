"""Retrieval, zero-shot classification, pictures and reports for image-text models.

Names are imported when first used, so that `import hf_customclip.evaluation` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adapters import load_open_clip_style
    from .callbacks import ChanceLossCallback, OverfittingCallback
    from .chance import chance_recall, retrieval_chance
    from .classification import ClassificationResult
    from .embedding import embed_dataset, embed_images, embed_texts
    from .metric_space import METRIC_PATH, export_retrieval_metric, push_retrieval_metric
    from .reports import (
        classification_eval_results,
        format_classification_table,
        format_retrieval_table,
        retrieval_eval_results,
    )
    from .retrieval import retrieval_metrics, retrieval_ranks
    from .sentence_transformers_export import save_for_sentence_transformers
    from .zero_shot import ZeroShotClassifier

_MODULE_OF = {
    "METRIC_PATH": "metric_space",
    "ChanceLossCallback": "callbacks",
    "ClassificationResult": "classification",
    "OverfittingCallback": "callbacks",
    "ZeroShotClassifier": "zero_shot",
    "chance_recall": "chance",
    "classification_eval_results": "reports",
    "embed_dataset": "embedding",
    "embed_images": "embedding",
    "embed_texts": "embedding",
    "export_retrieval_metric": "metric_space",
    "format_classification_table": "reports",
    "format_retrieval_table": "reports",
    "load_open_clip_style": "adapters",
    "push_retrieval_metric": "metric_space",
    "retrieval_chance": "chance",
    "retrieval_eval_results": "reports",
    "retrieval_metrics": "retrieval",
    "retrieval_ranks": "retrieval",
    "save_for_sentence_transformers": "sentence_transformers_export",
}

__all__ = [
    "METRIC_PATH",
    "ChanceLossCallback",
    "ClassificationResult",
    "OverfittingCallback",
    "ZeroShotClassifier",
    "chance_recall",
    "classification_eval_results",
    "embed_dataset",
    "embed_images",
    "embed_texts",
    "export_retrieval_metric",
    "format_classification_table",
    "format_retrieval_table",
    "load_open_clip_style",
    "push_retrieval_metric",
    "retrieval_chance",
    "retrieval_eval_results",
    "retrieval_metrics",
    "retrieval_ranks",
    "save_for_sentence_transformers",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

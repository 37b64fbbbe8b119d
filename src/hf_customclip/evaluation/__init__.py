"""Retrieval, zero-shot classification, images and reports for image-text models.

Names are imported when first used, so that `import hf_customclip.evaluation` costs nothing.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy_names

if TYPE_CHECKING:
    from .adapters import load_open_clip_style as load_open_clip_style
    from .chance import chance_recall as chance_recall
    from .chance import retrieval_chance as retrieval_chance
    from .embedded_dataset import embed_dataset as embed_dataset
    from .intervals import Difference as Difference
    from .intervals import bootstrap_intervals as bootstrap_intervals
    from .intervals import paired_differences as paired_differences
    from .metric_space import METRIC_PATH as METRIC_PATH
    from .metric_space import export_retrieval_metric as export_retrieval_metric
    from .metric_space import push_retrieval_metric as push_retrieval_metric
    from .reports import classification_eval_results as classification_eval_results
    from .reports import format_classification_table as format_classification_table
    from .reports import format_comparison_table as format_comparison_table
    from .reports import format_retrieval_table as format_retrieval_table
    from .reports import retrieval_eval_results as retrieval_eval_results
    from .retrieval import RetrievalRanks as RetrievalRanks
    from .retrieval import ranks_both_ways as ranks_both_ways
    from .retrieval import retrieval_metrics as retrieval_metrics
    from .retrieval import retrieval_ranks as retrieval_ranks

_MODULE_OF = {
    "METRIC_PATH": "metric_space",
    "Difference": "intervals",
    "RetrievalRanks": "retrieval",
    "bootstrap_intervals": "intervals",
    "chance_recall": "chance",
    "classification_eval_results": "reports",
    "embed_dataset": "embedded_dataset",
    "export_retrieval_metric": "metric_space",
    "format_classification_table": "reports",
    "format_comparison_table": "reports",
    "format_retrieval_table": "reports",
    "load_open_clip_style": "adapters",
    "paired_differences": "intervals",
    "push_retrieval_metric": "metric_space",
    "ranks_both_ways": "retrieval",
    "retrieval_chance": "chance",
    "retrieval_eval_results": "reports",
    "retrieval_metrics": "retrieval",
    "retrieval_ranks": "retrieval",
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _MODULE_OF)

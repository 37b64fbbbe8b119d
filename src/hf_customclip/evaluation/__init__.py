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

_NAMES_IN = {
    "adapters": ("load_open_clip_style",),
    "chance": ("chance_recall", "retrieval_chance"),
    "embedded_dataset": ("embed_dataset",),
    "intervals": ("Difference", "bootstrap_intervals", "paired_differences"),
    "metric_space": ("METRIC_PATH", "export_retrieval_metric", "push_retrieval_metric"),
    "reports": (
        "classification_eval_results",
        "format_classification_table",
        "format_comparison_table",
        "format_retrieval_table",
        "retrieval_eval_results",
    ),
    "retrieval": ("RetrievalRanks", "ranks_both_ways", "retrieval_metrics", "retrieval_ranks"),
}

__getattr__, __dir__, __all__ = lazy_names(__name__, _NAMES_IN)

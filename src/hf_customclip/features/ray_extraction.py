"""Feature shards extracted on a Ray cluster: actors of Ray Data that hold both towers take item after item."""

from __future__ import annotations

from typing import Any

from datasets import IterableDataset

from ..inference.encode import process_state
from .shard_extraction import extract_features
from .shard_folder import MANIFEST, ShardFolder


class _Extractor:
    """An actor: it holds the towers, and computes the shares of the work that Ray hands it."""

    def __init__(
        self, kind: type[Any], config: Any, weights: dict[str, Any], *others: Any, **options: Any
    ) -> None:
        model = kind(config)
        model.load_state_dict(weights)
        self.made, self.options = (model.eval().to(process_state().device), *others), options

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        try:
            for share in batch["share"].tolist():
                extract_features(*self.made, process_index=share, show_progress=False, **self.options)
        except ValueError as error:  # for the user to read; as an exception it would come with Ray's traces
            return {"problem": [str(error)]}
        return {"problem": [""]}


def extract_features_with_ray(
    model: Any,
    processor: Any,
    dataset: IterableDataset,
    out: str,
    *,
    actors: int,
    num_workers: int = 0,
    **options: Any,
) -> dict[str, Any]:
    """As `extract_features`, by the Ray cluster that RAY_ADDRESS names or this machine is of, or a local one.

    Args:
        dataset, out: as there; every node of the cluster reads the one and writes to the other.
        actors: how many hold the towers, each with a GPU of its own where the cluster has so many.
        num_workers: cores of each actor, at least one.
        options: `precision` and `unreadable` of `extract_features`.

    Returns:
        The manifest.

    Raises:
        ImportError: Ray is not installed.
        ValueError: as there.
    """
    try:
        import ray
        import ray.data
    except ImportError:
        raise ImportError("Extraction by Ray needs Ray Data: pip install 'hf-customclip[ray]'.") from None
    if not ray.is_initialized():
        ray.init()
    shares, cores = max(actors, dataset.num_shards), max(1, num_workers)
    folder = ShardFolder(out)
    # Not the model itself: one that has run holds hooks of transformers, which cannot be sent.
    made = type(model), model.config, model.state_dict(), processor, dataset
    # Not `ray.data.range`, whose tasks would wait for ever for the cores that the actors have taken.
    work = ray.data.from_items([{"share": share} for share in range(shares)], override_num_blocks=shares)
    done = work.map_batches(
        _Extractor,
        fn_constructor_args=(*made, folder.root if folder.is_local else out),  # actors run in other folders
        fn_constructor_kwargs={"num_workers": cores, "num_processes": shares, **options},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cores,
        num_gpus=int(ray.cluster_resources().get("GPU", 0) >= actors),
    )
    for row in done.iter_rows():
        if row["problem"]:
            raise ValueError(row["problem"])
    return folder.read_json(MANIFEST)

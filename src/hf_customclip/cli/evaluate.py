"""`hf-customclip evaluate`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = """Measure retrieval by the papers' protocol: recalls both ways, ranks and rsum, beside chance.

\b
    hf-customclip evaluate outputs/sample examples/sample
    hf-customclip evaluate user/custom-clip-flickr30k flickr30k/ --split test --plots pictures/
"""


def evaluate(
    model: Annotated[str, typer.Argument(help="A saved folder or a Hub id.")],
    data: Annotated[str, typer.Argument(help="Pictures with captions: a folder, a file or a Hub id.")],
    split: Annotated[str, typer.Option(help="Which split of the data.")] = "test",
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures of the results.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for all_results.json.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures embedded at a time.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")] = False,
) -> None:
    """Embed a split once, rank, print."""
    from transformers import AutoModel, AutoProcessor

    from ..data import load_image_text_dataset
    from ..evaluation.chance import retrieval_chance
    from ..evaluation.embedding import embed_dataset
    from ..evaluation.reports import format_retrieval_table

    dataset: Any = load_image_text_dataset(data, split=split)
    loaded, processor = AutoModel.from_pretrained(model), AutoProcessor.from_pretrained(model)
    embedded = embed_dataset(loaded, processor, dataset, batch_size)
    metrics = embedded.metrics()
    if as_json:
        print(json.dumps({f"eval_{name}": value for name, value in metrics.items()}, indent=2))
    else:
        chance = retrieval_chance(embedded.image_ids, embedded.text_image_ids)
        print(f"{model} on {data}, {split}: {len(dataset)} images, {len(embedded.text_embeds)} captions")
        print(format_retrieval_table(metrics, chance))
    if output is not None:
        _write_results(
            output / "all_results.json", {f"eval_{name}": value for name, value in metrics.items()}
        )
    if plots is not None:
        for file in _write_plots(plots, dataset, embedded, Path(model)):
            typer.echo(f"wrote {file}", err=True)


def _write_results(file: Path, metrics: dict[str, float]) -> None:
    from ..hub.folder_card import write_atomically

    file.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_atomically(file, json.dumps({**known, **metrics}, indent=2, sort_keys=True) + "\n")


def _write_plots(folder: Path, dataset: Any, embedded: Any, model: Path) -> list[Path]:
    try:
        from ..evaluation.plots import write_retrieval_plots
    except ImportError:
        raise ImportError("--plots needs matplotlib: pip install 'hf-customclip[plots]'") from None
    folder.mkdir(parents=True, exist_ok=True)
    state = model / "trainer_state.json"
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"] if state.exists() else None
    return write_retrieval_plots(folder, dataset, embedded, log_history=history)

"""`hf-customclip index`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from .data_options import DataOptions
from .embed import report
from .images import Images, IsDataset, folder_or_dataset
from .options import BatchSize, Dim, Model, Split, Workers, takes_options
from .output import Output

HELP = """Index images for `hf-customclip search`.

\b
    hf-customclip index outputs/sample pics/ my-index
    hf-customclip index outputs/shop products.csv my-index --caption-column title
    hf-customclip search my-index "a red car"

Run it again, and only what is new or has changed is embedded; what is gone is
dropped. A run that was stopped is taken up where it was. On several processes:

\b
    accelerate launch -m hf_customclip.cli index outputs/sample pics/ my-index
    torchrun --nproc_per_node 2 -m hf_customclip.cli index ...   # on CPUs

An image that cannot be read is named with the reason, and the exit code is then 1.
"""


@takes_options
def index(
    model: Model,
    source: Images,
    directory: Annotated[
        str, typer.Argument(help="Where the index is kept: a folder, or s3://bucket/index.")
    ],
    data_options: DataOptions,
    printed: Output,
    dataset: IsDataset = False,
    split: Split = "all",
    dim: Dim = None,
    batch_size: BatchSize = 64,
    workers: Workers = 0,
    compression: Annotated[
        str, typer.Option(help="Of vectors above 50,000 images: int8, binary (smaller) or none.")
    ] = "int8",
    text_encoder: Annotated[
        bool,
        typer.Option(
            "--text-encoder",
            help="Keep the text encoder beside the vectors (ONNX, int8): text queries then start sooner.",
        ),
    ] = False,
) -> None:
    """Make an index, or bring one up to date."""
    images = folder_or_dataset(source, dataset, split, data_options)
    from ..inference.load_model import load_model
    from ..search import ImageIndex

    loaded = load_model(model, dim)
    made = ImageIndex.build(
        *loaded,
        images,
        directory=directory,
        batch_size=batch_size,
        num_workers=workers,
        compression=compression,
    )
    if text_encoder:
        _keep_text_encoder(*loaded, made)
    report(made.changes, printed, "hf-customclip", "search", directory, "a red car")


def _keep_text_encoder(model: Any, processor: Any, index: Any) -> None:
    from ..export import export_onnx
    from ..inference.encode import process_state
    from ..search.text_encoder import FOLDER

    if "://" in str(index.table.where):
        raise ValueError("--text-encoder needs an index in a folder of this machine.")
    folder = Path(index.table.where) / FOLDER
    if process_state().is_main_process and not folder.is_dir():
        try:
            export_onnx(model, processor, folder, quantize="int8", only_text_of=index.made_by)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

"""`hf-customclip export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from .options import Dim, Model

HELP = """Write the two encoders as ONNX graphs, for onnxruntime, browsers and phones.

\b
    hf-customclip export outputs/sample outputs/sample-onnx

vision_model.onnx makes image_embeds of pixel_values, text_model.onnx makes
text_embeds of input_ids and attention_mask; batch and length are free. Both
are compared with the model in onnxruntime before anything is written. The
processor's files lie beside them, and the graphs' metadata say how inputs
are made. Needs: pip install 'hf-customclip[export]'
"""


def export(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    dim: Dim = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8: matrices and token embeddings in a quarter of the size.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print files and differences as JSON.")] = False,
) -> None:
    """Load, export, verify, write."""
    from ..export import ExportError, export_onnx
    from ..inference.load_model import load_model

    try:
        differences = export_onnx(*load_model(model, dim), folder, quantize=quantize)
    except ExportError as error:
        raise ValueError(str(error)) from error
    written = {str(folder / name): difference for name, difference in differences.items()}
    if as_json:
        print(json.dumps(written, indent=2))
        return
    for file, difference in written.items():
        print(f"{file}  {Path(file).stat().st_size / 1e6:.1f} MB, at most {difference:.1e} from the model")

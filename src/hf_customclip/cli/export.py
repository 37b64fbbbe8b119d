"""`hf-customclip export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import Dim, Model, takes_options
from .output import Output

HELP = """Write the two encoders as ONNX graphs, for onnxruntime, browsers and phones.

\b
    hf-customclip export outputs/sample outputs/sample-onnx

vision_model.onnx makes image_embeds of pixel_values, text_model.onnx makes
text_embeds of input_ids and attention_mask; batch and length are free. Both
are compared with the model in onnxruntime before anything is written. The
processor's files lie beside them, and the graphs' metadata say how inputs
are made. Of a model with a bank of training embeddings both also give
hubness_bias, which a ranking takes from each candidate's cosine.

Needs: pip install 'hf-customclip[export]'
"""


@takes_options
def export(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Where the files go.")],
    printed: Output,
    dim: Dim = None,
    quantize: Annotated[
        str | None, typer.Option(help="int8: matrices and token embeddings in a quarter of the size.")
    ] = None,
) -> None:
    """Load, export, verify, write."""
    from ..export import ExportError, export_onnx
    from ..inference.hubness import HubnessBank
    from ..inference.load_model import load_model

    try:
        differences = export_onnx(
            *load_model(model, dim), folder, quantize=quantize, bank=HubnessBank.load(model)
        )
    except ExportError as error:
        raise ValueError(str(error)) from error
    written = {str(folder / name): difference for name, difference in differences.items()}
    sizes = {file: f"{Path(file).stat().st_size / 1e6:.1f} MB" for file in written}
    printed.show(
        table="\n".join(f"{f}  {sizes[f]}, at most {d:.1e} from the model" for f, d in written.items()),
        value=written,
        rows=[{"file": file, "difference": difference} for file, difference in written.items()],
    )
    printed.say_next("hf-customclip", "demo", model)

"""ONNX: the two encoders as two graphs, since people embed images once and queries every day."""

from __future__ import annotations

import copy
import json
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from . import __version__
from .inference.hubness import HubnessBank, bias_of_rows, cut_bank
from .search.table import ModelName

# The names under which transformers.js and optimum look for the halves of a CLIP.
VISION_FILE, TEXT_FILE = "vision_model.onnx", "text_model.onnx"
TOLERANCE = 1e-4
QUANTIZED = ["MatMul", "Gemm", "Gather"]
WORDS = "a text of some words that is longer than the others by quite a lot of them"


class ExportError(RuntimeError):
    """The graphs could not be made, or compute something else than the model; nothing was written."""


class _Encoder(nn.Module):
    """Inputs to embeddings and, where there is a bank of the other kind's, their bias as hubs."""

    def __init__(self, model: Any, bank: Tensor | None = None) -> None:
        super().__init__()
        self.model = model
        width = getattr(model.config, "truncate_dim", None) or model.config.projection_dim
        self.bank = None if bank is None else cut_bank(bank, width)

    def _outputs(self, features: Tensor) -> tuple[Tensor, ...]:
        embeds = F.normalize(features, dim=-1)
        return (embeds,) if self.bank is None else (embeds, bias_of_rows(embeds, self.bank))


class _ImageEncoder(_Encoder):
    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        return self._outputs(self.model.get_image_features(pixel_values).pooler_output)


class _TextEncoder(_Encoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, ...]:
        return self._outputs(self.model.get_text_features(input_ids, attention_mask).pooler_output)


def export_onnx(
    model: Any,
    processor: Any,
    folder: str | Path,
    *,
    quantize: str | None = None,
    only_text_of: ModelName | None = None,
    bank: HubnessBank | None = None,
) -> dict[str, float]:
    """Write `vision_model.onnx`, `text_model.onnx` and the processor's files, once both graphs are verified.

    - `vision_model.onnx`: `pixel_values` `[batch, channels, height, width]` to `image_embeds` `[batch, d]`.
    - `text_model.onnx`: `input_ids` and `attention_mask` `[batch, length]` (int64) to `text_embeds`
      `[batch, d]`.
    - With a bank, both also to `hubness_bias` `[batch]`: what to take from a candidate's cosine in a ranking.

    Embeddings are L2-normalised, so that their product is the cosine; batch and length are free. Each graph's
    metadata say how inputs are made (`preprocessing`) and how cosines become logits (`inverse_temperature`,
    `logit_bias`). Weights are in float32, or with `quantize` in int8.

    Args:
        quantize: "int8" makes matrices and token embeddings int8, a quarter of the size, and `*_quantized.onnx` of
            the files (what transformers.js calls "q8"); convolutions stay in float32, as they would lose too much.
        bank: the model's, `HubnessBank.load(folder)`.
        only_text_of: for an index: the text encoder and tokenizer alone, marked as of the model that made it.

    Returns:
        For each file the greatest difference from the model in onnxruntime, over batches of several sizes.

    Raises:
        ImportError: the `export` extra is not installed.
        ExportError: torch cannot export a tower, or a graph differs by more than 1e-4 before it is quantized.
        ValueError: another `quantize`.
    """
    _check_installed()
    if quantize not in (None, "int8"):
        raise ValueError(f"quantize is 'int8' or None, not {quantize!r}.")
    model = copy.deepcopy(model).to("cpu", torch.float32).eval()  # type: ignore[arg-type]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    differences = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as scratch:
        part = Path(scratch)
        text_metadata = _text_metadata(model, processor)
        # A candidate's hubs are among what it is asked for with: the other kind.
        text = _TextEncoder(model, bank.image_embeds if bank else None)
        graphs: list[Any] = [(TEXT_FILE, text, _texts, text_metadata)]
        if only_text_of is None:
            vision = _ImageEncoder(model, bank.text_embeds if bank else None)
            graphs.insert(0, (VISION_FILE, vision, _images, _image_metadata(model, processor)))
        else:
            text_metadata["made_by"] = asdict(only_text_of)
        for file, encoder, inputs, metadata in graphs:
            _write_graph(part / file, encoder, inputs(processor, 2), metadata, model)
            checks = [inputs(processor, count) for count in (1, 3)]
            differences[file] = max(_difference(part / file, encoder, check) for check in checks)
            if not differences[file] <= TOLERANCE:
                raise ExportError(
                    f"{file} differs from the model by {differences[file]:.1e}, more than {TOLERANCE:.0e}; "
                    "nothing was written."
                )
            if quantize is not None:
                del differences[file]
                file = _quantized(part / file)
                differences[file] = max(_difference(part / file, encoder, check) for check in checks)
        (processor if only_text_of is None else processor.tokenizer).save_pretrained(part)
        for path in sorted(part.iterdir()):
            os.replace(path, folder / path.name)
    return differences


def _write_graph(
    file: Path, encoder: _Encoder, inputs: dict[str, Tensor], metadata: Mapping[str, Any], model: Any
) -> None:
    dimension = torch.export.Dim
    batch = dimension("batch", min=1, max=2**20)  # some bound: torch 2.6 refuses none
    length = dimension("length", min=2, max=getattr(model, "max_text_positions", None) or 512)
    free = {"pixel_values": {0: batch}}
    shapes = {name: free.get(name, {0: batch, 1: length}) for name in inputs}
    outputs = ["image_embeds" if "pixel_values" in inputs else "text_embeds"]
    outputs += [] if encoder.bank is None else ["hubness_bias"]
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            # By ourselves: torch 2.6's exporter to ONNX would fall back to a graph of one batch size.
            traced = torch.export.export(encoder, tuple(inputs.values()), dynamic_shapes=shapes, strict=False)
            program = torch.onnx.export(
                traced,
                input_names=list(inputs),
                output_names=outputs,
                dynamic_shapes=shapes,  # again, for the dimensions' names
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises almost anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ExportError(
            f"torch {torch.__version__} cannot export {file.stem} to ONNX (2.14 and later are tested): {reason}"
        ) from error
    assert program is not None
    values = {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in metadata.items()
    }
    program.model.metadata_props.update(values)
    program.save(str(file))


def _quantized(graph: Path) -> str:
    """Put an int8 graph in the place of one in float32; its file's name."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantized = graph.with_name(f"{graph.stem}_quantized.onnx")
    quantize_dynamic(
        graph, quantized, op_types_to_quantize=QUANTIZED, weight_type=QuantType.QInt8, per_channel=True
    )
    graph.unlink()
    return quantized.name


@torch.no_grad()
def _difference(file: Path, encoder: nn.Module, inputs: dict[str, Tensor]) -> float:
    from onnxruntime import InferenceSession

    session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    right = encoder(**inputs)
    return max(
        float((torch.from_numpy(one) - other).abs().max()) for one, other in zip(found, right, strict=True)
    )


def _images(processor: Any, count: int) -> dict[str, Tensor]:
    """Coloured noise: what a network makes of it differs from image to image."""
    generator = torch.Generator().manual_seed(count)
    noise = torch.randint(0, 256, (count, 64, 80, 3), dtype=torch.uint8, generator=generator)
    images = [Image.fromarray(image.numpy()) for image in noise]
    return {"pixel_values": processor(images=images, return_tensors="pt")["pixel_values"]}


def _texts(processor: Any, count: int) -> dict[str, Tensor]:
    """Texts of different lengths, so that padding is checked too."""
    words = WORDS.split()
    texts = [" ".join(words[: 2 + (5 * i + 7 * count) % (len(words) - 2)]) for i in range(count)]
    tokens = processor(text=texts, return_tensors="pt")
    return {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}


def _image_metadata(model: Any, processor: Any) -> dict[str, Any]:
    preprocessing = processor.image_processor.to_dict()
    return {**_common_metadata(model), "preprocessing": preprocessing, "input": "pixel_values, RGB, float32"}


def _text_metadata(model: Any, processor: Any) -> dict[str, Any]:
    tokenizer = processor.tokenizer
    preprocessing = {
        "tokenizer": "tokenizer.json",
        "max_length": getattr(model.config, "max_text_length", tokenizer.model_max_length),
        "pad_token_id": tokenizer.pad_token_id,
        "padding_side": tokenizer.padding_side,
    }
    return {**_common_metadata(model), "preprocessing": preprocessing, "input": "input_ids, attention_mask"}


def _common_metadata(model: Any) -> dict[str, Any]:
    scale = model.inverse_temperature() if hasattr(model, "inverse_temperature") else model.logit_scale.exp()
    bias = getattr(model, "logit_bias", None)
    return {
        "producer": f"hf-customclip {__version__}",
        "model": Path(str(model.name_or_path)).name,  # not the path: the file goes to other machines
        "output": "L2-normalised embeddings; their product is the cosine",
        "loss_type": getattr(model.config, "loss_type", "softmax"),
        "inverse_temperature": scale.item(),
        "logit_bias": 0.0 if bias is None else bias.item(),
    }


def _check_installed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"Exporting needs {error.name}, which is not installed: pip install 'hf-customclip[export]'"
        ) from None

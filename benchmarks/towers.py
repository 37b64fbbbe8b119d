"""Every family of towers: joined, or refused in a sentence. Prints the table of docs/towers.md.

    python benchmarks/towers.py [--onnx] [--only NAME ...] > table.md

Of each family of transformers, torchvision and timm a tiny member with random weights is joined with a tiny
tower of the other kind. "works" means: joined with its defaults (or with the setting named), image and text
embedded, the same from cached features, saved, loaded by AutoModel and, in a process without this package, by
the checkpoint's own code, with the same embeddings each time, and used by transformers' zero-shot pipeline.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tr
from PIL import Image
from transformers import CONFIG_MAPPING, MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING

from hf_customclip import CustomClipModel, CustomClipProcessor, TorchvisionBackboneModel
from hf_customclip.modeling.joining_custom_clip import first_line

VOCABULARY = 120
MOST_PARAMETERS = 15_000_000
POOLINGS = ("mean", "cls")
WIDE = ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "embed_dim", "word_embed_proj_dim")
DEEP = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers")
HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "num_key_value_heads",
    "encoder_attention_heads", "decoder_attention_heads", "num_experts_per_tok",
)  # fmt: skip
INNER = (
    "intermediate_size", "d_ff", "ffn_dim", "n_inner", "d_inner", "hidden_dim", "ffn_hidden_size",
    "encoder_ffn_dim", "decoder_ffn_dim", "n_positions", "max_position_embeddings",
)  # fmt: skip
SMALL: dict[str, Any] = {
    **dict.fromkeys(WIDE, 32), **dict.fromkeys(DEEP, 2), **dict.fromkeys(HEADS, 2), **dict.fromkeys(INNER, 64),
    "head_dim": 16, "d_kv": 16, "vocab_size": VOCABULARY, "image_size": 32, "patch_size": 8,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_intermediate_size": 32,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.1,
}  # fmt: skip
# What a family's own rules ask for beside that.
SPECIAL: dict[str, dict[str, Any]] = {
    "swin": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4},
    "swinv2": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4},
    "donut-swin": {"embed_dim": 24, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4},
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]]},
    "funnel": {"block_sizes": [1, 1], "d_head": 16, "n_head": 2},
    "reformer": {"axial_pos_embds": False, "attn_layers": ["local", "local"], "local_attn_chunk_length": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "expand": 2, "state_size": 16, "n_groups": 1},
    "longformer": {"attention_window": 8},
}
# One of each torchvision family, with inputs of 64 pixels where the network takes them.
TORCHVISION = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3", "mnasnet0_5",
    "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "squeezenet1_1", "swin_t", "swin_v2_t",
)  # fmt: skip
# The smallest member of each timm family that has one of less than 12 million parameters.
TIMM = (
    "halonet_h1", "test_byobnet", "cait_xxs24_224", "coat_tiny", "convit_tiny", "test_convnext", "crossvit_tiny_240",
    "csatv2", "cs3darknet_focus_s", "cspnext_tiny", "deit_tiny_patch16_224", "densenet121", "dpn68",
    "edgenext_xx_small", "efficientformer_l1", "efficientformerv2_s0", "test_efficientnet", "efficientvim_m1",
    "efficientvit_b0", "efficientvit_m0", "vit_tiny_patch16_dinov3_qkvb", "fasternet_t0", "fastvit_s12",
    "gcvit_xxtiny", "ghostnet_050", "hgnetv2_b0", "hrnet_w18_small", "iformer_s", "inception_next_atto",
    "test_mambaout", "test_coatnet", "poolformerv2_s12", "mobilenetv3_small_050", "mobilevit_xxs", "test_nfnet",
    "pit_xs_224", "pvt_v2_b0", "regnetx_002", "repghostnet_050", "repvit_m1", "resnest14d", "test_resnet",
    "resnetv2_18", "rexnet_100", "legacy_seresnet18", "shvit_s1", "skresnet18", "starnet_s050", "swiftformer_xs",
    "tiny_vit_5m_224", "visformer_tiny", "test_vit", "vit_tiny_r_s16_p8_224", "test_vit_relpos",
    "ese_vovnet19b_slim_dw", "xcit_nano_12_p8_224",
)  # fmt: skip
LOAD_ELSEWHERE = """
import sys
sys.modules["hf_customclip"] = None  # cannot be imported: the checkpoints' own code must do
import torch
from transformers import AutoModel
for folder in sys.argv[1:]:
    try:
        expected = torch.load(f"{folder}/expected.pt")
        model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
        with torch.no_grad():
            output = model(**expected["inputs"])
        for name in ("image_embeds", "text_embeds"):
            torch.testing.assert_close(output[name], expected[name], rtol=1e-3, atol=1e-4)
        print("same", folder, flush=True)
    except Exception as error:
        print("failed", folder, type(error).__name__, str(error).replace("\\n", " ")[:200], flush=True)
"""


@dataclass
class Result:
    """What became of one family: `outcome` is "works", "works with …", "refused", "fails" or "not built"."""

    kind: str
    family: str
    tower: str
    outcome: str
    sentence: str = ""


def families() -> Iterator[tuple[str, str]]:
    """("vision" or "text", name) of all families, transformers' first."""
    kinds = {"pixel_values": "vision", "input_ids": "text"}
    for model_type in dict.fromkeys(config_class.model_type for config_class in MODEL_MAPPING):
        if model_type not in ("timm_wrapper", "timm_backbone", "torchvision_backbone", "custom_clip"):
            try:
                with torch.device("meta"):
                    model = _class_of(config := tiny_config(model_type))(config)
            except Exception:  # not to be built in small, or not without another library
                continue
            small = sum(p.numel() for p in model.parameters()) <= MOST_PARAMETERS
            if small and str(model.main_input_name) in kinds:
                yield kinds[model.main_input_name], model_type
    yield from (("vision", f"torchvision/{name}") for name in TORCHVISION)
    yield from (("vision", f"timm/{name}") for name in TIMM)


def tiny_config(model_type: str) -> Any:
    """The family's configuration with every size that it has a name for made small."""
    config_class = CONFIG_MAPPING[model_type]
    known = {name for cls in config_class.__mro__ for name in getattr(cls, "__annotations__", {})}
    aliases = getattr(config_class, "attribute_map", {})
    options = {
        name: value
        for name, value in SMALL.items()
        if name in known or (name in aliases and aliases[name] not in SMALL)
    }
    defaults = config_class()
    lists = {name for name in options if isinstance(getattr(defaults, name, None), (list, tuple))}
    options = {name: value for name, value in options.items() if name not in lists}
    if isinstance(depths := getattr(defaults, "depths", None), (list, tuple)):
        options["depths"] = [1] * len(depths)
    return config_class(**{**options, **SPECIAL.get(model_type, {})})


def _class_of(config: Any) -> Any:
    found = MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), None) or MODEL_MAPPING[type(config)]
    return found[0] if isinstance(found, (tuple, list)) else found


def write_tower(family: str, folder: Path) -> str:
    """Save a tiny member of the family; the name of its class."""
    torch.manual_seed(0)
    if family.startswith("torchvision/"):
        model: Any = TorchvisionBackboneModel.from_torchvision(family.split("/")[1], weights=None)
    elif family.startswith("timm/"):
        model = tr.AutoModel.from_config(tr.TimmWrapperConfig(architecture=family.split("/")[1]))
    else:
        config = tiny_config(family)
        # Of an encoder and decoder the whole is saved, as published checkpoints are.
        model = tr.AutoModel.from_config(config)
    model.save_pretrained(folder)
    return type(model).__name__


def try_family(kind: str, family: str, folder: Path, other: str, onnx: bool = False) -> Result:
    """Join a member of the family with the `other` tower and go through everything but `LOAD_ELSEWHERE`."""
    try:
        tower = write_tower(family, folder / "tower")
    except Exception as error:  # transformers' own
        return Result(kind, family, "", "not built", f"AutoModel builds no tiny member: {first_line(error)}")
    names = {"vision": str(folder / "tower"), "text": other} if kind == "vision" else {
        "vision": other, "text": str(folder / "tower")}  # fmt: skip
    options: dict[str, Any] = {"projection_dim": 16, "max_text_length": 16}
    setting = ""
    for pooling in (None, *POOLINGS):
        if pooling is not None:
            setting, options[f"{kind}_pooling"] = f" with {kind}_pooling={pooling!r}", pooling
        try:
            model = CustomClipModel.from_vision_text_pretrained(**names, **options).eval()
            break
        except ValueError as error:
            sentence = first_line(error)
            if "'mean'" not in sentence or pooling == POOLINGS[-1]:
                return Result(kind, family, tower, "refused", sentence)
        except Exception as error:  # the third outcome
            return Result(
                kind, family, tower, "fails", f"joining: {type(error).__name__}: {first_line(error)}"
            )
    step = "embedding"
    try:
        inputs = _inputs(model)
        with torch.no_grad():
            expected = model(**inputs)
            step = "cached features"
            image_features = model.pool_image(inputs["pixel_values"])
            text_features = model.pool_text(inputs["input_ids"], inputs["attention_mask"])
            _check_same(model(image_features=image_features, text_features=text_features), expected)
            step = "saving and loading"
            model.save_pretrained(folder / "joined")
            _check_same(tr.AutoModel.from_pretrained(folder / "joined").eval()(**inputs), expected)
        torch.save(
            {"inputs": inputs, "image_embeds": expected.image_embeds, "text_embeds": expected.text_embeds},
            folder / "joined/expected.pt",
        )
        step = "the pipeline"
        processor = _processor(model)
        task = tr.pipeline(
            "zero-shot-image-classification",
            model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor,
        )  # fmt: skip
        task(Image.effect_noise((40, 30), 60).convert("RGB"), candidate_labels=["a b", "c"])
        if onnx:
            step = "ONNX"
            setting += _onnx(model, processor, folder / "onnx")
    except Exception as error:  # the third outcome
        return Result(kind, family, tower, "fails", f"{step}: {type(error).__name__}: {first_line(error)}")
    return Result(kind, family, tower, f"works{setting}")


def _inputs(model: Any) -> dict[str, torch.Tensor]:
    from hf_customclip.modeling.contract_custom_clip import probe_inputs

    return {**probe_inputs(model, "vision"), **probe_inputs(model, "text")}


def _check_same(found: Any, expected: Any) -> None:
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)


def _processor(model: Any) -> Any:
    from hf_customclip.modeling.towers_custom_clip import image_input_shape

    _, height, width = image_input_shape(model.config.vision_config)
    size = {"height": height, "width": width}
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = tr.DistilBertTokenizer(vocab={letter: number for number, letter in enumerate(letters)})
    tokenizer.model_max_length = 16
    return CustomClipProcessor(tr.CLIPImageProcessor(size=size, crop_size=size), tokenizer)


def _onnx(model: Any, processor: Any, folder: Path) -> str:
    from hf_customclip.export import ExportError, export_onnx

    try:
        export_onnx(model, processor, folder)
    except ExportError:
        return ", no ONNX"
    return ", ONNX"


def load_elsewhere(folders: list[Path]) -> dict[Path, str]:
    """By the checkpoints' own code in another process: for each folder "" or what failed."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, *map(str, folders)],
        capture_output=True,
        text=True,
        check=False,
    )
    told = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(("same", "failed"))}
    missing = f"failed: {done.stderr[-200:]}"
    return {f: "" if (line := told.get(str(f), missing)).startswith("same") else line for f in folders}


def other_towers(folder: Path) -> dict[str, str]:
    """A tiny tower of each kind for those of the other kind to be joined with."""
    write_tower("vit", folder / "vit")
    write_tower("bert", folder / "bert")
    return {"vision": str(folder / "bert"), "text": str(folder / "vit")}


def try_families(names: list[tuple[str, str]], onnx: bool = False) -> list[Result]:
    """The results of (kind, family) pairs; those that work have been loaded in another process too."""
    results, saved = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        others = other_towers(Path(scratch))
        for number, (kind, family) in enumerate(names):
            start, folder = time.perf_counter(), Path(scratch, str(number))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                result = try_family(kind, family, folder, others[kind], onnx)
            results.append(result)
            if result.outcome.startswith("works"):
                saved[folder / "joined"] = result
            seconds = time.perf_counter() - start
            print(json.dumps([*vars(result).values(), round(seconds, 1)]), file=sys.stderr, flush=True)
            if len(saved) == 40 or number == len(names) - 1:  # before the disk is full
                for joined, failure in load_elsewhere(list(saved)).items():
                    if failure:
                        saved[joined].outcome, saved[joined].sentence = "fails", f"remote code: {failure}"
                saved = {}
    return results


def table(results: list[Result]) -> str:
    """Markdown."""
    rows = ["| tower | family | class | outcome |", "| --- | --- | --- | --- |"]
    for result in sorted(results, key=lambda result: (result.kind != "vision", result.family)):
        outcome = f"{result.outcome}: {result.sentence}" if result.sentence else result.outcome
        rows.append(f"| {result.kind} | {result.family} | {result.tower} | {outcome.replace('|', '/')} |")
    return "\n".join(rows)


def main() -> None:
    """Try the families, all or those named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--onnx", action="store_true", help="export those that work to ONNX too")
    parser.add_argument("--only", nargs="+", help="these families")
    arguments = parser.parse_args()
    tr.logging.set_verbosity_error()
    tr.logging.disable_progress_bar()
    names = [name for name in families() if name[1] in (arguments.only or [name[1]])]
    results = try_families(names, arguments.onnx)
    print(table(results))


if __name__ == "__main__":
    main()

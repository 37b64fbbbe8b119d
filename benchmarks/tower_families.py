"""Every family of towers: joined, or refused in a sentence. Writes the tables of docs/towers.md.

    python benchmarks/tower_families.py --results outputs/towers.jsonl --page docs/towers.md [--onnx] [--only NAME ...]

Of each family of transformers, torchvision and timm a tiny member with random weights (`tiny_towers.py`) is joined
with a tiny tower of the other kind. "works" means: joined with its defaults (or with the setting named), image and
text embedded, the same from cached features, saved, loaded by AutoModel and, in a process without this package, by
the checkpoint's own code, with the same embeddings each time, and used by transformers' zero-shot pipeline; "ONNX"
that its graph gives the same embeddings too. Anything else than "works" and "refused" ends the script with an error.
Families of the results file are not tried again; a few at a time run in a process of their own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tr
from PIL import Image
from tiny_towers import SMALL, all_families, kinds, tiny_config, tiny_configs, write_tower

from hf_customclip import CustomClipModel, CustomClipProcessor
from hf_customclip.export import ExportError, export_onnx
from hf_customclip.modeling.contract_custom_clip import probe_inputs
from hf_customclip.modeling.joining_custom_clip import first_line
from hf_customclip.modeling.towers_custom_clip import image_input_shape

AT_ONCE = 12
SECONDS = 1200
MARK = "<!-- What follows is written by benchmarks/tower_families.py. -->"
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
    """What became of one family: `outcome` is "works", "refused", "fails", or "left out" of the tables."""

    kind: str
    family: str
    tower: str
    outcome: str
    note: str = ""
    """The setting that it works with, the sentence of the refusal, or what failed."""
    onnx: str = ""
    """"ONNX" or "no ONNX", where that was tried."""


class Scratch:
    """A folder with a tiny tower of each kind, for those of the other kind to be joined with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_tower(tiny_config(tr.ViTConfig, SMALL), folder / "vit")
        write_tower(tiny_config(tr.BertConfig, SMALL), folder / "bert")
        self.other = {"vision": {"text": str(folder / "bert")}, "text": {"vision": str(folder / "vit")}}
        self.saved: dict[Path, Result] = {}

    def new(self) -> Path:
        """An empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))


def try_family(family: str, scratch: Scratch, onnx: bool = False) -> list[Result]:
    """The family's results, one for each kind of tower that it is; without loading in another process.

    Where a tiny member cannot embed, members nearer to the family's defaults are tried too.
    """
    results: dict[str, Result] = {}
    try:
        for config in tiny_configs(family):
            found = kinds(config)
            for kind in found:
                # It may be of a size that does not go with the others.
                last = results.get(kind)
                if last is None or last.outcome == "left out" or "cannot embed" in last.note:
                    results[kind] = _try_tower(kind, family, config, scratch, onnx)
            if not found:
                return [Result("", family, "", "left out", "takes neither images nor texts")]
    except Exception as error:  # transformers' own
        if not results:
            return [Result("", family, "", "left out", first_line(error))]
    return list(results.values())


def _try_tower(kind: str, family: str, config: Any, scratch: Scratch, onnx: bool) -> Result:
    folder = scratch.new()
    try:
        tower = write_tower(config, folder / "tower")
    except Exception as error:  # transformers' own
        return Result(kind, family, "", "left out", first_line(error))
    result = Result(kind, family, tower, "works")
    step = "joining"
    try:
        model, result.note = _join(kind, {kind: str(folder / "tower"), **scratch.other[kind]})
        result.tower = type(model.get_submodule(f"{kind}_model")).__name__
        step = "embedding"
        inputs = {**probe_inputs(model, "vision"), **probe_inputs(model, "text")}
        with torch.no_grad():
            expected = model(**inputs)
            step = "cached features"
            image_features = model.pool_image(inputs["pixel_values"])
            text_features = model.pool_text(inputs["input_ids"], inputs["attention_mask"])
            _check_same(model(image_features=image_features, text_features=text_features), expected)
            step = "saving and loading"
            model.save_pretrained(folder / "joined")
            _check_same(tr.AutoModel.from_pretrained(folder / "joined").eval()(**inputs), expected)
        embeds = {name: expected[name] for name in ("image_embeds", "text_embeds")}
        torch.save({"inputs": inputs, **embeds}, folder / "joined/expected.pt")
        step = "the pipeline"
        processor = _processor(model)
        task = tr.pipeline(
            "zero-shot-image-classification",
            model=model, tokenizer=processor.tokenizer, image_processor=processor.image_processor,
        )  # fmt: skip
        task(Image.effect_noise((40, 30), 60).convert("RGB"), candidate_labels=["a b", "c"])
        if onnx:
            result.onnx = _onnx(model, processor, folder)
        scratch.saved[folder / "joined"] = result
    except Refused as refused:
        result.outcome, result.note = "refused", str(refused).replace(str(folder / "tower"), family)
    except Exception as error:  # the third outcome
        result.outcome, result.note = "fails", f"{step}: {type(error).__name__}: {first_line(error)}"
    return result


class Refused(Exception):
    """By a sentence."""


def _join(kind: str, names: dict[str, str]) -> tuple[Any, str]:
    """The joined model, and the pooling that it needs instead of its default ("" for none)."""
    options: dict[str, Any] = {"projection_dim": 16, "max_text_length": 16}
    for pooling in ("", "mean", "cls"):
        chosen = {f"{kind}_pooling": pooling} if pooling else {}
        try:
            model = CustomClipModel.from_vision_text_pretrained(**names, **options, **chosen).eval()
        except ValueError as error:
            if not pooling:
                sentence = first_line(error)
            if "pooling" not in first_line(error):
                break
        else:
            return model, f"{kind}_pooling={pooling!r}" if pooling else ""
    raise Refused(sentence)


def _check_same(found: Any, expected: Any) -> None:
    for name in ("image_embeds", "text_embeds"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4)


def _processor(model: Any) -> Any:
    _, height, width = image_input_shape(model.config.vision_config)
    size = {"height": height, "width": width}
    letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    tokenizer = tr.DistilBertTokenizer(vocab={letter: number for number, letter in enumerate(letters)})
    tokenizer.model_max_length = 16
    return CustomClipProcessor(tr.CLIPImageProcessor(size=size, crop_size=size), tokenizer)


def _onnx(model: Any, processor: Any, folder: Path) -> str:
    try:
        export_onnx(model, processor, folder / "onnx")
    except ExportError:
        return "no ONNX"
    return "ONNX"


def load_elsewhere(scratch: Scratch) -> None:
    """Load what was saved by the checkpoints' own code in another process; what fails there "fails"."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, *map(str, scratch.saved)], capture_output=True, text=True, check=False
    )  # fmt: skip
    told = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith(("same", "failed"))}
    for folder, result in scratch.saved.items():
        line = told.get(str(folder), f"failed: {done.stderr[-200:]}")
        if not line.startswith("same"):
            result.outcome, result.note = "fails", f"remote code: {line}"


def try_families(families: Iterable[str], onnx: bool = False) -> list[Result]:
    """The results of the families, those that work loaded in another process too."""
    results = []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scratch = Scratch(Path(folder))
        for family in families:
            results += try_family(family, scratch, onnx)
        load_elsewhere(scratch)
    return results


def try_in_another_process(families: list[str], onnx: bool) -> list[Result]:
    """The same; if the process dies or hangs, family by family, so that it is known by which."""
    command = [sys.executable, __file__, *["--onnx"] * onnx, "--here", *families]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        if len(families) == 1:
            return [Result("", families[0], "", "fails", f"its process: {error} {str(error.stderr)[-300:]}")]
        return [result for family in families for result in try_in_another_process([family], onnx)]
    return [Result(**json.loads(line)) for line in done.stdout.splitlines() if line.startswith("{")]


def page(results: list[Result]) -> str:
    """Markdown: the counts, the two tables, and what is left out."""
    parts = []
    for kind, name in (("vision", "Image"), ("text", "Text")):
        rows = sorted((result for result in results if result.kind == kind and result.tower), key=_order)
        count = Counter(result.outcome for result in rows)
        parts += [
            f"\n## {name} towers\n",
            f"{len(rows)} families: {count['works']} work, {count['refused']} are refused.\n",
            "| family | class | outcome |\n| --- | --- | --- |",
            *(f"| {row.family} | {row.tower} | {_cell(row)} |" for row in rows),
        ]
    left_out = [result for result in results if result.outcome == "left out"]
    neither = [result.family for result in left_out if "neither" in result.note]
    unbuilt = [f"{result.family} ({result.note})" for result in left_out if "neither" not in result.note]
    parts += [
        "\n## Left out\n",
        f"{len(neither)} model types take neither images nor texts: {', '.join(sorted(neither))}.\n",
        f"Of {len(unbuilt)} AutoModel builds no small member: {'; '.join(sorted(unbuilt))}.",
    ]
    return "\n".join(parts) + "\n"


def _order(result: Result) -> tuple[bool, str]:
    return "/" in result.family, result.family


def _cell(result: Result) -> str:
    said = ", ".join(filter(None, [result.note, result.onnx]))
    return f"{result.outcome}: {said}".removesuffix(": ").replace("|", "/")


def _read(file: Path) -> list[Result]:
    """The last result of each family and kind."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    results = [Result(**json.loads(line)) for line in file.read_text().splitlines()]
    return list({(result.family, result.kind): result for result in results}.values())


def main() -> None:
    """Try the families that the results lack, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=Path, default=Path("outputs/towers.jsonl"), help="one JSON line a result"
    )
    parser.add_argument("--page", type=Path, help="replace the tables of this page")
    parser.add_argument("--onnx", action="store_true", help="export those that work to ONNX too")
    parser.add_argument("--only", nargs="+", help="these families")
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    tr.logging.set_verbosity_error()
    tr.logging.disable_progress_bar()
    if arguments.here:
        results = try_families(arguments.here, arguments.onnx)
        print(*(json.dumps(asdict(result)) for result in results), sep="\n")
        return
    results = _read(arguments.results)
    done = {result.family for result in results}
    if arguments.onnx:
        done -= {result.family for result in results if result.outcome == "works" and not result.onnx}
    missing = [family for family in arguments.only or all_families() if family not in done]
    chunks = [missing[start : start + AT_ONCE] for start in range(0, len(missing), AT_ONCE)]
    with ThreadPoolExecutor(2) as pool, arguments.results.open("a") as file:
        running = [pool.submit(try_in_another_process, chunk, arguments.onnx) for chunk in chunks]
        for finished in as_completed(running):
            file.writelines(json.dumps(asdict(result)) + "\n" for result in finished.result())
            file.flush()
    results = _read(arguments.results)
    if arguments.page:
        before = arguments.page.read_text().split(MARK)[0]
        arguments.page.write_text(f"{before}{MARK}\n{page(results)}")
    for result in results:
        if result.outcome == "fails":
            print(f"{result.kind} {result.family}: {result.note}", file=sys.stderr)
    sys.exit(any(result.outcome == "fails" for result in results))


if __name__ == "__main__":
    main()

"""How long each tower of `hf-customclip towers` takes on a CPU, and how good those are whose weights are at hand.

python benchmarks/towers_speed.py [--write]

Milliseconds an image (224 x 224 pixels, batches of 16) or a caption (16 tokens, batches of 32), float32, one core, the
fastest of several batches: the same with random weights as with trained ones, so that nothing is downloaded. Quality
is the sum of six recalls on the bundled sample's validation split, English captions, of the closed form with the other
tower fixed (EfficientNet-Lite0 or all-MiniLM-L6-v2), for the towers that `make train` builds from package indexes; the
others' weights are on the Hub alone. `--write` puts both into the package's table. To be run on a quiet machine.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    DistilBertConfig,
    DistilBertModel,
    XLMRobertaConfig,
    XLMRobertaModel,
    logging,
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from sample_recipe import ENGLISH, MULTILINGUAL, measure, sample_towers  # noqa: E402

from hf_customclip.cli.towers import FILE  # noqa: E402
from hf_customclip.data import load_image_text_dataset  # noqa: E402

MINILM = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
NETWORKS: dict[str, Callable[[], torch.nn.Module]] = {
    "tf_efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0", num_classes=0),
    "resnet34": torchvision.models.resnet34,
    "resnet50": torchvision.models.resnet50,
    "facebook/dinov2-small": lambda: Dinov2Model(Dinov2Config(hidden_size=384, num_attention_heads=6)),
    "facebook/dinov2-base": lambda: Dinov2Model(Dinov2Config()),
    "sentence-transformers/all-MiniLM-L6-v2": lambda: BertModel(BertConfig(**MINILM, num_hidden_layers=6)),
    "intfloat/multilingual-e5-small": lambda: BertModel(BertConfig(**MINILM, num_hidden_layers=12, vocab_size=250037)),
    "distilbert/distilbert-base-multilingual-cased": lambda: DistilBertModel(DistilBertConfig(vocab_size=119547)),
    "FacebookAI/xlm-roberta-base": lambda: XLMRobertaModel(XLMRobertaConfig(vocab_size=250002)),
}  # fmt: skip
INPUTS = {"vision": torch.rand(16, 3, 224, 224), "text": torch.randint(5, 1000, (32, 16))}
BUILT = {
    "tf_efficientnet_lite0": ENGLISH,
    "sentence-transformers/all-MiniLM-L6-v2": ENGLISH,
    "intfloat/multilingual-e5-small": MULTILINGUAL,
}
TIMES = 12


@torch.no_grad()
def milliseconds(network: torch.nn.Module, inputs: torch.Tensor) -> float:
    """For one image or caption, in the fastest batch."""
    network.eval()
    seconds = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        network(inputs)
        seconds.append(time.perf_counter() - begin)
    return 1000 * min(seconds) / len(inputs)


def quality(text: str) -> float:
    """The closed form's sum of recalls on the sample's validation split, with this text tower."""
    data = load_image_text_dataset(str(ROOT / "examples" / "sample"), languages=["en"])
    with tempfile.TemporaryDirectory() as cache:
        return measure({}, {"method": "closed_form"}, 0, data, sample_towers(text), cache)["eval_rsum"]


def main() -> None:
    """Print a line for each tower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into the package's table")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text(encoding="utf-8"))
    sums = {text: quality(text) for text in set(BUILT.values())}
    for row in rows:
        name = row["name"]
        row["cpu_ms"] = round(milliseconds(NETWORKS[name](), INPUTS[row["tower"]]), 1)
        row["sample_rsum"] = round(sums[BUILT[name]]) if name in BUILT else None
        print(f"{name}: {row['cpu_ms']} ms, {row['sample_rsum']}", flush=True)
    if options.write:
        lines = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in rows)
        FILE.write_text(f"[\n  {lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()

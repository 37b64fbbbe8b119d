"""Retrieval on photographs: the tutorial, plain training, the closed form and the measured recipe on Flickr8k.

python benchmarks/flickr8k.py FOLDER --seeds 3 --output benchmarks/flickr8k.md

FOLDER holds Flickr8k.token.txt, the three Flickr_8k.*Images.txt lists and the images. Towers are the sample's
(EfficientNet-Lite0 and all-MiniLM-L6-v2), both frozen. Images and captions are under
Flickr's terms, for non-commercial research and education: they are no part of this project.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from datasets import DatasetDict, disable_progress_bars
from sample_recipe import PARTS, ROOT, sample_towers
from transformers import PrinterCallback, logging, set_seed

from hf_customclip import CustomClipProcessor, CustomClipTrainer, CustomClipTrainingArguments, create_model
from hf_customclip.data import load_image_text_dataset
from hf_customclip.training.config import load_config

TOWERS = tuple(map(str, sample_towers()))
TUTORIAL = load_config(ROOT / "examples" / "configs" / "tutorial.yaml")
# What training was before the recipe: a temperature and mean pooling on the towers' pooled outputs, in pairs.
PLAIN_MODEL = {
    **TUTORIAL.model,
    "text_pooling": "mean",
    "logit_scale_init_value": 2.6592,
    "learn_logit_scale": True,
}
PLAIN_TRAINING = {
    **TUTORIAL.training, "captions_per_image": None, "num_train_epochs": 8, "lr_scheduler_type": "cosine",
}  # fmt: skip
BEST_TRAINING = {"image_views": 4, "hubness_bank_size": 6000}
WHOLE_IMAGE = {"size": {"height": 224, "width": 224}, "do_center_crop": False}
# Name, sections of the configuration: model, processor, training.
RUNS = (
    ("tutorial to the letter", TUTORIAL.model, TUTORIAL.processor, TUTORIAL.training),
    ("plain: temperature, mean pooling, 5 captions, 8 epochs", PLAIN_MODEL, {}, PLAIN_TRAINING),
    ("closed form, no training", {}, {}, {"method": "closed_form"}),
    ("default", {}, {}, {}),
    *((name, model, {}, training) for name, model, training in PARTS),
    (
        "best: whole images, four views, a bank of 6,000, 1,024 wide, features standardised",
        {"projection_dim": 1024, "standardize_features": True},
        WHOLE_IMAGE,
        BEST_TRAINING,
    ),
)
RECALLS = ("t2i_recall@1", "t2i_recall@5", "t2i_recall@10", "i2t_recall@1", "i2t_recall@5", "i2t_recall@10")
HEADER = """# Retrieval on photographs: Flickr8k

`python benchmarks/flickr8k.py FOLDER --seeds {seeds}`, frozen EfficientNet-Lite0 and all-MiniLM-L6-v2 (both from
package indexes, 22 M parameters in all), papers' split (6,000 / 1,000 / 1,000), images with five captions, 1K protocol;
mean of {seeds} seeds, last epoch, all choices made on dev. CSLS: rankings corrected for hubs by a bank of training
embeddings. Seconds on {threads} threads of a CPU{machine}: features of all splits (once, cached; a row that uses
another row's features shows 0), then training.

The images are copies of 224 x 224 pixels, **squashed, not cropped**, so numbers do not compare one to one with papers'.
Images and captions are under Flickr's terms (non-commercial research and education) and no part of this project.

| run | rsum dev | rsum test | t2i R@1/5/10 test | i2t R@1/5/10 test | features, s | training, s |
|---|---:|---:|---|---|---:|---:|
"""


def measure(run: tuple, seed: int, data: DatasetDict, cache: Path) -> dict[str, float]:
    """Train with one seed; metrics of both splits and seconds."""
    _, model_options, processor_options, arguments = run
    set_seed(seed)
    model = create_model(**{**model_options, "vision": TOWERS[0], "text": TOWERS[1]})
    processor = CustomClipProcessor.from_vision_text_pretrained(*TOWERS, **processor_options)
    with tempfile.TemporaryDirectory() as folder:
        fixed = {
            "output_dir": folder, "seed": seed, "feature_cache_dir": str(cache), "report_to": "none",
            "save_strategy": "no", "eval_strategy": "no", "disable_tqdm": True, "logging_strategy": "no",
        }  # fmt: skip
        args = CustomClipTrainingArguments(**{**arguments, **fixed})
        trainer = CustomClipTrainer(model, args, None, data["train"], data["validation"], processor)
        trainer.remove_callback(PrinterCallback)
        begin = time.perf_counter()
        trainer.get_train_dataloader()
        for split in ("validation", "test"):
            trainer.get_eval_dataloader(data[split])
        features = time.perf_counter() - begin
        trainer.train()
        seconds = time.perf_counter() - begin - features
        metrics = trainer.evaluate() | trainer.evaluate(data["test"], metric_key_prefix="test")
    return metrics | {"features": features, "training": seconds}


def row(name: str, results: list[dict[str, float]], corrected: str = "") -> str:
    """A line of the table."""

    def mean(key: str) -> float:
        return statistics.mean(result[key] for result in results)

    def spread(key: str) -> str:
        values = [result[key] for result in results]
        return f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""

    recalls = [f"{100 * mean(f'test_{corrected}{recall}'):.0f}" for recall in RECALLS]
    cells = [
        name + (" + CSLS" if corrected else ""),
        *(f"{mean(key):.1f}{spread(key)}" for key in (f"eval_{corrected}rsum", f"test_{corrected}rsum")),
        " / ".join(recalls[:3]),
        " / ".join(recalls[3:]),
        f"{max(result['features'] for result in results):.0f}",
        f"{mean('training'):.0f}",
    ]
    return "| " + " | ".join(cells) + " |\n"


def main() -> None:
    """Measure every run, print the table as it grows, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a run's name")
    parser.add_argument(
        "--cache", type=Path, help="where features are kept; by default in a folder that is removed"
    )
    parser.add_argument("--machine", default="", help="what to say about it in the table's head")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    data = load_image_text_dataset(options.folder)
    machine = f" ({options.machine})" if options.machine else ""
    text = HEADER.format(seeds=options.seeds, threads=torch.get_num_threads(), machine=machine)
    print(text, end="", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for run in RUNS:
            if options.only not in run[0]:
                continue
            seeds = 1 if run[3].get("method") == "closed_form" else options.seeds  # nothing in it is drawn
            results = [measure(run, seed, data, options.cache or Path(folder)) for seed in range(seeds)]
            rows = row(run[0], results)
            if "test_csls_rsum" in results[0]:
                rows += row(run[0], results, "csls_")
            print(rows, end="", flush=True)
            text += rows
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

"""What each choice of the sample's recipe is worth: means over seeds, on the validation split and on the test split.

python benchmarks/sample_recipe.py --seeds 5
python benchmarks/sample_recipe.py --seeds 5 --split label

Choices are made by the validation split alone; the test columns are there to see how far that carries. Features
are kept, so a run takes seconds.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from datasets import DatasetDict, concatenate_datasets, disable_progress_bars
from transformers import PrinterCallback, logging, set_seed

from hf_customclip import CustomClipModel, CustomClipProcessor, CustomClipTrainer, CustomClipTrainingArguments
from hf_customclip.data import load_image_text_dataset

ROOT = Path(__file__).resolve().parents[1]
TOWERS = tuple(
    ROOT / "outputs" / "sample-towers" / name for name in ("efficientnet-lite0", "all-minilm-l6-v2")
)
RANDOM = {"num_train_epochs": 10, "learning_rate": 1e-3}
CCA = {"head_init": "cca", "num_train_epochs": 5, "learning_rate": 3e-4}
IMAGE = {"vision_feature_layers": [2, 3, 4]}
LAYERS = {**IMAGE, "text_feature_layers": [0, 3]}
UNTRAINED = {**CCA, "learning_rate": 1e-12}
# Once the heads are trained, the last layers of a tower are trained with them for a while.
MORE = {"num_train_epochs": 3, "learning_rate": 1e-4, "tower_learning_rate": 1e-5}
# Name, fields of the configuration, training arguments, and for a second stage: what to unfreeze.
RECIPES = (
    ("random heads, 10 epochs, 1e-3", {}, RANDOM, {}),
    ("random heads, more layers", LAYERS, RANDOM, {}),
    ("CCA, untrained", {}, UNTRAINED, {}),
    ("CCA, 5 epochs, 3e-4", {}, CCA, {}),
    ("CCA, image layers 2, 3, 4, untrained", IMAGE, UNTRAINED, {}),
    ("CCA, image layers 2, 3, 4, 5 epochs, 3e-4", IMAGE, CCA, {}),
    ("CCA, image layers 2, 3, 4, text layers 0, 3, untrained", LAYERS, UNTRAINED, {}),
    ("CCA, image layers 2, 3, 4, text layers 0, 3, 5 epochs, 3e-4 (the sample's)", LAYERS, CCA, {}),
    ("the sample's, image layer 1 too", {**LAYERS, "vision_feature_layers": [1, 2, 3, 4]}, CCA, {}),
    ("the sample's, 1024 wide", {**LAYERS, "projection_dim": 1024}, CCA, {}),
    ("the sample's, then the heads alone for 3 epochs more", LAYERS, CCA, {"towers": (), "last_groups": 0}),
    ("the sample's, then MiniLM's last layer", LAYERS, CCA, {"towers": ("text",), "last_groups": 1}),
    ("the sample's, then MiniLM's last 2 layers", LAYERS, CCA, {"towers": ("text",), "last_groups": 2}),
    ("the sample's, then EfficientNet's last stage", LAYERS, CCA, {"towers": ("vision",), "last_groups": 1}),
)
METRICS = ("t2i_recall@1", "t2i_recall@10", "i2t_recall@1", "i2t_recall@10", "rsum")


def measure(config: dict, arguments: dict, then: dict, seed: int, data: DatasetDict) -> dict[str, float]:
    """Train once or twice, keep the best epoch by the validation split, and measure on both splits."""
    set_seed(seed)
    model = CustomClipModel.from_vision_text_pretrained(*TOWERS, text_pooling="mean", **config)
    processor = CustomClipProcessor.from_vision_text_pretrained(*TOWERS)
    trainer = train(model, processor, arguments, seed, data)
    if then:
        for tower in then["towers"]:
            trainer.model.unfreeze(tower, last_groups=then["last_groups"])
        trainer = train(trainer.model, processor, MORE, seed, data)
    return trainer.evaluate() | trainer.evaluate(data["test"], metric_key_prefix="test")


def train(
    model: CustomClipModel, processor: CustomClipProcessor, arguments: dict, seed: int, data: DatasetDict
) -> CustomClipTrainer:
    """The trainer, with the best epoch's model."""
    with tempfile.TemporaryDirectory() as folder:
        args = CustomClipTrainingArguments(
            folder,
            seed=seed,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            weight_decay=0.1,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="rsum",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            **arguments,
        )
        trainer = CustomClipTrainer(model, args, None, data["train"], data["validation"], processor)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        return trainer


def split_by_label(data: DatasetDict) -> DatasetDict:
    """Each image by its own title, so that variants of one thing may lie in different splits."""
    sys.path.insert(0, str(ROOT / "examples" / "sample"))
    from captions import split_of

    whole = concatenate_datasets(list(data.values()))
    splits = [split_of(captions[0]) for captions in whole["captions"]]
    rows = {name: [i for i, split in enumerate(splits) if split == name] for name in data}
    return DatasetDict({name: whole.select(numbers) for name, numbers in rows.items()})


def main() -> None:
    """Print a table, a row a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a recipe's name")
    parser.add_argument(
        "--split", choices=["concept", "label"], default="concept",
        help="the sample's split, where all variants of a thing lie together, or one by each image's title",
    )  # fmt: skip
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    disable_progress_bars()
    data = load_image_text_dataset(str(ROOT / "examples" / "sample"))
    if options.split == "label":
        data = split_by_label(data)
    print({name: len(rows) for name, rows in data.items()}, end=" images; ")
    print(f"mean and standard deviation of {options.seeds} seeds\n")
    print("| recipe | " + " | ".join(f"{split} {m}" for split in ("val", "test") for m in METRICS) + " |")
    print("|---|" + "---:|" * 2 * len(METRICS))
    for name, config, arguments, then in RECIPES:
        if options.only not in name:
            continue
        runs = [measure(config, arguments, then, seed, data) for seed in range(options.seeds)]
        cells = []
        for prefix in ("eval", "test"):
            for metric in METRICS:
                values = [run[f"{prefix}_{metric}"] for run in runs]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                digits = 1 if metric == "rsum" else 3
                cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

"""Precision and recall of examples/policies/emoji.yaml on the bundled sample.

    python benchmarks/moderation.py [MODEL]    # MODEL: outputs/sample, by default

Positives: emoji that show a weapon (10) or alcohol (9), labelled by hand below. Negatives: all other images of
the validation and test splits, never trained on, and 14 look-alikes of the train split (cutlery, soft drinks).

Rows for each category:

- "words": images under the policy as it is, thresholds for a recall of 0.8. The model was trained
  on most of the positives (their splits are counted), as a model is that people train on their own images.
- "texts": the same for the images' second captions, as if they were the texts of posts.
- "words, unseen": as "words", with a model trained without any of the 19 positives.
- "images, unseen": that model, and instead of prompts the other positives as example images, each positive
  judged by the others alone.

"Held out" is by cross-validation: no image had a part in the thresholds that it is judged by.
"""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from datasets import concatenate_datasets
from transformers import AutoModel, AutoProcessor, PrinterCallback, set_seed

import hf_customclip
from hf_customclip import CustomClipModel, CustomClipProcessor, CustomClipTrainer, CustomClipTrainingArguments
from hf_customclip.data import load_image_text_dataset
from hf_customclip.inference.encode import encode_images
from hf_customclip.moderation import Moderator, Policy
from hf_customclip.moderation.calibration import _folds, calibrate_category
from hf_customclip.training.config import load_config

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "examples" / "sample"
UNSEEN = ROOT / "outputs" / "sample-without-weapons-and-alcohol"
RECALL = 0.8

POSITIVES = {
    # fencer, kitchen knife, firecracker, water pistol, axe, dagger, swords, bomb, bow, boomerang
    "weapons": ["1f93a", "1f52a", "1f9e8", "1f52b", "1fa93", "1f5e1", "2694", "1f4a3", "1f3f9", "1fa83"],
    # sake, wine, cocktail, beer, clinking glasses, tropical drink, champagne, clinking beers, tumbler
    "alcohol": ["1f376", "1f377", "1f378", "1f37a", "1f942", "1f379", "1f37e", "1f37b", "1f943"],
}
# fork and knife (2), shield, khanda, milk, hot drink, tea; cup, juice, ice, baby bottle, mate, teapot, bubble tea
LOOK_ALIKES = [
    *("1f374", "1f37d", "1f6e1", "1faaf", "1f95b", "2615", "1f375"),
    *("1f964", "1f9c3", "1f9ca", "1f37c", "1f9c9", "1fad6", "1f9cb"),
]


def judged_items(splits):
    """The judged images, their ids, and which split each is from."""
    judged = {*chain.from_iterable(POSITIVES.values()), *LOOK_ALIKES}
    train = splits["train"]
    rows = [row for row, name in enumerate(train["image_id"]) if name in judged]
    parts = {"train": train.select(rows), "validation": splits["validation"], "test": splits["test"]}
    joined = concatenate_datasets(list(parts.values()))
    texts = [captions[1] for captions in joined["captions"]]
    return joined["image"], texts, joined["image_id"], [name for name, part in parts.items() for _ in part]


def train_without_positives(splits):
    """The sample's recipe (examples/configs/sample.yaml) without the positives."""
    overrides = [f"training.output_dir={UNSEEN}"]
    recipe = load_config(ROOT / "examples" / "configs" / "sample.yaml", overrides)
    set_seed(42)
    positives = set(chain.from_iterable(POSITIVES.values()))
    kept = {
        name: split.select([row for row, known in enumerate(split["image_id"]) if known not in positives])
        for name, split in splits.items()
    }
    trainer = CustomClipTrainer(
        model=CustomClipModel.from_vision_text_pretrained(**recipe.model),
        args=CustomClipTrainingArguments(**recipe.training),
        train_dataset=kept["train"],
        eval_dataset=kept["validation"],
        processing_class=CustomClipProcessor.from_vision_text_pretrained(
            recipe.model["vision"], recipe.model["text"]
        ),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    trainer.save_model()


def measure(name, scores, positive, note):
    """One row of the table."""
    result = calibrate_category(
        name, {"image": scores}, positive, "recall", RECALL, _folds(range(len(scores)))
    )
    print(f"| {name} | {note} | {result.thresholds['image']:.3f} | {result.seen} | {result.held_out} |")


def main(model_name):
    """Print the table."""
    splits = load_image_text_dataset(str(SAMPLE))
    if not (UNSEEN / "model.safetensors").exists():
        train_without_positives(splits)
    images, texts, ids, of_split = judged_items(splits)
    policy = Policy.from_file(ROOT / "examples" / "policies" / "emoji.yaml")
    print(f"{len(images)} images, recall wanted {RECALL}\n")
    for name, names in POSITIVES.items():
        counts = {s: sum(i in names for i, o in zip(ids, of_split, strict=True) if o == s) for s in splits}
        print(f"{name}: {len(names)} positives ({', '.join(f'{n} in {s}' for s, n in counts.items())})")
    print("\n| category | by | threshold | on these images | held out |\n|---|---|---|---|---|")
    for folder, note in ((model_name, "words"), (UNSEEN, "words, unseen")):
        model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
        embeds = encode_images(model, processor, images, batch_size=32)
        moderator = Moderator(model, processor, policy)
        verdicts = [moderator._verdict(embed[None], None) for embed in embeds]
        similarity = (embeds @ embeds.T).fill_diagonal_(-torch.inf)
        for position, category in enumerate(policy.categories):
            positive = np.array([i in POSITIVES[category.name] for i in ids])
            scores = np.array([verdict.findings[position].score for verdict in verdicts])
            measure(category.name, scores, positive, note)
            if folder == model_name:
                worded = moderator.check(texts=texts)
                scores = np.array([verdict.findings[position].scores["text"] for verdict in worded])
                measure(category.name, scores, positive, "texts")
            if folder == UNSEEN:
                nearest = similarity[:, torch.from_numpy(positive)].amax(1)
                measure(category.name, nearest.numpy().astype(float), positive, "images, unseen")


if __name__ == "__main__":
    print(f"hf-customclip {hf_customclip.__version__}")
    main(sys.argv[1] if len(sys.argv) > 1 else ROOT / "outputs" / "sample")

"""ZeroShotClassifier against transformers' pipeline: same model, same images, same labels, same scores.

python benchmarks/zero_shot_speed.py
python benchmarks/zero_shot_speed.py --images 1000 --pipeline-images 1000   # nothing extrapolated: hours

ResNet-34 and DistilBERT-sized towers with random weights: neither speed nor equality depends on training.
The pipeline runs the text tower over all labels for every image, so it is measured on a few images by default
and the table says to what it was extrapolated.
"""

import argparse
import itertools
import time

import numpy as np
import torch
from PIL import Image
from transformers import BertTokenizer, CLIPImageProcessor, DistilBertConfig, pipeline

from hf_customclip import CustomClipConfig, CustomClipModel, CustomClipProcessor, TorchvisionBackboneConfig
from hf_customclip.inference.zero_shot import ZeroShotClassifier

TEMPLATE = "This is a photo of {}."
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white", "grey", "pink")
SIZES = ("tiny", "small", "little", "short", "narrow", "wide", "tall", "large", "huge", "giant")
THINGS = ("cat", "dog", "bird", "horse", "house", "tree", "car", "boat", "chair", "table")
WORDS = ["this", "is", "a", "photo", "of", ".", *COLOURS, *SIZES, *THINGS]


def main() -> None:
    """Measure both and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100, help="images for the classifier")
    parser.add_argument("--pipeline-images", type=int, default=3, help="of them, images for the pipeline")
    parser.add_argument("--labels", type=int, default=1000, help="at most 1,000")
    arguments = parser.parse_args()
    model, processor = build()
    labels = [" ".join(words) for words in itertools.product(SIZES, COLOURS, THINGS)][: arguments.labels]
    images = noise_images(arguments.images)

    start = time.perf_counter()
    classifier = ZeroShotClassifier(model, processor, labels, TEMPLATE)
    for_labels = time.perf_counter() - start
    ours = classifier.predict(images)
    for_images = time.perf_counter() - start - for_labels

    peer = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )
    few = images[: arguments.pipeline_images]
    start = time.perf_counter()
    theirs = peer(few, candidate_labels=labels, hypothesis_template=TEMPLATE)
    for_few = time.perf_counter() - start

    report(len(labels), len(images), len(few), for_labels, for_images, for_few)
    print(f"largest relative difference of a score: {largest_difference(ours, theirs):.1e}")


def build() -> tuple[CustomClipModel, CustomClipProcessor]:
    """The tutorial's towers with random weights, and a tokenizer that knows the words used here."""
    torch.manual_seed(0)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    config = CustomClipConfig.from_vision_text_configs(TorchvisionBackboneConfig(), DistilBertConfig())
    processor = CustomClipProcessor(
        CLIPImageProcessor(), BertTokenizer(vocab=vocabulary, model_max_length=32)
    )
    return CustomClipModel(config).eval(), processor


def noise_images(count: int) -> list[Image.Image]:
    """Different noise on different colours."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray((rng.integers(0, 200, 3) + rng.integers(0, 55, (240, 320, 3))).astype("uint8"))
        for _ in range(count)
    ]


def report(labels: int, images: int, few: int, for_labels: float, for_images: float, for_few: float) -> None:
    """The table, with what 1,000 images would take where fewer were measured."""
    ours, theirs = for_labels + for_images * 1000 / images, for_few * 1000 / few
    print(f"{torch.get_num_threads()} threads, {labels:,} labels, seconds")
    print(f"{'':<22} {'images measured':>15} {'measured':>10} {'for 1,000 images':>17}")
    for name, count, measured, scaled in (
        ("ZeroShotClassifier", images, for_labels + for_images, ours),
        ("transformers pipeline", few, for_few, theirs),
    ):
        note = "" if count == 1000 else " (extrapolated)"
        print(f"{name:<22} {count:>15,} {measured:>10.1f} {scaled:>17.1f}{note}")
    print(f"of the classifier's time, labels (once): {for_labels:.1f}")
    print(f"times faster for 1,000 images: {theirs / ours:.0f}")


def largest_difference(ours: list[list[dict]], theirs: list[list[dict]]) -> float:  # type: ignore[type-arg]
    """Over all images that both classified and all labels."""
    pairs = zip(ours[: len(theirs)], theirs, strict=True)
    scores = [({x["label"]: x["score"] for x in a}, {x["label"]: x["score"] for x in b}) for a, b in pairs]
    return max(abs(a[label] / b[label] - 1) for a, b in scores for label in b)


if __name__ == "__main__":
    main()

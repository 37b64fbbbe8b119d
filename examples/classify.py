"""Sort images among labels of your own; nothing is trained for it.

    python examples/classify.py outputs/sample cat.jpg dog.jpg --labels cat dog "red car"

`hf-customclip classify` does the same for whole folders.
"""

import argparse

from transformers import AutoModel, AutoProcessor

import hf_customclip  # noqa: F401 - registers the model with transformers
from hf_customclip.inference import ZeroShotClassifier


def classify(model: str, images: list[str], labels: list[str]) -> dict[str, str]:
    """Each image's best label."""
    classifier = ZeroShotClassifier(
        AutoModel.from_pretrained(model), AutoProcessor.from_pretrained(model), labels
    )
    best = {}
    for image, predictions in zip(images, classifier.predict(images), strict=True):
        print(image, ", ".join(f"{x['label']} {x['score']:.2f}" for x in predictions))
        best[image] = predictions[0]["label"]
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--labels", nargs="+", required=True)
    arguments = parser.parse_args()
    classify(arguments.model, arguments.images, arguments.labels)

"""Zero-shot image classification: each label's text is embedded once, whatever the number of images.

transformers' `zero-shot-image-classification` pipeline runs the text tower again for every image. With one
template the scores here are the same; several are averaged as in Radford et al. 2021, section 3.1.4.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm
from transformers import ProcessorMixin

from .classification import ClassificationResult, rank_of_target
from .encode import DualEncoder, batched, encode_images, encode_texts

DEFAULT_TEMPLATES = ("This is a photo of {}.",)


class ZeroShotClassifier:
    """Classifies images among labels given as words.

    Args:
        model: a dual encoder with `get_image_features` and `get_text_features`.
        processor: its processor.
        labels: the label names, in the order of the class indices of a data set.
        templates: one text or several with `{}` where the label goes. A label's embedding is the mean of its
            normalised text embeddings, normalised again.
        batch_size: images, or texts, that go through the model at a time.

    Attributes:
        label_embeds: `[len(labels), d]`, L2-normalised, on the model's device.

    Raises:
        ValueError: no labels, a label twice, or a template without `{}`.
    """

    def __init__(
        self,
        model: DualEncoder,
        processor: ProcessorMixin,
        labels: Sequence[str],
        templates: str | Sequence[str] = DEFAULT_TEMPLATES,
        batch_size: int = 64,
    ) -> None:
        self.model, self.processor, self.batch_size = model, processor, batch_size
        self.labels = list(labels)
        self.templates = [templates] if isinstance(templates, str) else list(templates)
        _check_labels_and_templates(self.labels, self.templates)
        self._index_of_label = {label: index for index, label in enumerate(self.labels)}
        self.label_embeds = self._embed_labels()

    def _embed_labels(self) -> Tensor:
        texts = [template.replace("{}", label) for label in self.labels for template in self.templates]
        embeds = encode_texts(self.model, self.processor, texts, batch_size=self.batch_size)
        return F.normalize(embeds.unflatten(0, (len(self.labels), len(self.templates))).mean(1), dim=-1)

    def logits(self, images: Sequence[Any]) -> Tensor:
        """One batch of images to `[len(images), len(labels)]`: the model's `logits_per_image`."""
        return self.logits_of_embeds(
            encode_images(self.model, self.processor, images, batch_size=len(images))
        )

    @torch.no_grad()
    def logits_of_embeds(self, image_embeds: Tensor) -> Tensor:
        """L2-normalised image embeddings `[n, d]` to logits `[n, len(labels)]`."""
        logits = image_embeds @ self.label_embeds.T * _inverse_temperature(self.model)
        bias = getattr(self.model, "logit_bias", None)
        return logits if bias is None else logits + bias

    def scores(self, images: Sequence[Any]) -> Tensor:
        """One batch of images to scores from 0 to 1, `[len(images), len(labels)]`.

        A model trained with the softmax loss gives probabilities over the labels; one trained with the
        sigmoid loss gives each label's own probability, and they need not sum to 1.
        """
        logits = self.logits(images)
        return logits.sigmoid() if is_sigmoid_trained(self.model) else logits.softmax(-1)

    def predict(self, images: Iterable[Any], top_k: int | None = None) -> list[list[dict[str, Any]]]:
        """For every image its `top_k` (all if None) labels as `{"score", "label"}`, the best first.

        The form is the pipeline's. `images` may be a generator; it is read a batch at a time.
        """
        k = len(self.labels) if top_k is None else min(top_k, len(self.labels))
        predictions = []
        for batch in batched(images, self.batch_size):
            best = self.scores(batch).cpu().sort(dim=-1, descending=True, stable=True)
            for values, indices in zip(
                best.values[:, :k].tolist(), best.indices[:, :k].tolist(), strict=True
            ):
                predictions.append(
                    [{"score": v, "label": self.labels[i]} for v, i in zip(values, indices, strict=True)]
                )
        return predictions

    def evaluate(
        self, dataset: Iterable[Any], image_column: str = "image", label_column: str = "label"
    ) -> ClassificationResult:
        """Classify a whole data set and compare with its labels.

        Args:
            dataset: rows with `image_column` and `label_column` (`datasets`, streamed ones too), or pairs of
                image and label (torchvision). Labels are positions in `labels`, or the labels themselves.
            image_column: the column of images, where rows have names.
            label_column: the column of labels, where rows have names.

        Raises:
            ValueError: the data set names another number of classes, or has a label that `labels` has not.
        """
        _check_number_of_classes(dataset, self.labels, label_column)
        ranks, predicted, targets = [], [], []
        pairs = _images_and_labels(dataset, image_column, label_column)
        total = len(dataset) if isinstance(dataset, Sized) else None
        with tqdm(total=total, desc="classify", disable=None, leave=False) as bar:
            for batch in batched(pairs, self.batch_size):
                target = torch.tensor([self._class_index(label) for _, label in batch])
                rank, prediction = rank_of_target(self.logits([image for image, _ in batch]).cpu(), target)
                ranks.append(rank)
                predicted.append(prediction)
                targets.append(target)
                bar.update(len(batch))
        if not targets:
            raise ValueError("The data set to classify has no rows.")
        return ClassificationResult(self.labels, torch.cat(targets), torch.cat(predicted), torch.cat(ranks))

    def _class_index(self, label: Any) -> int:
        if isinstance(label, str) and label in self._index_of_label:
            return self._index_of_label[label]
        if not isinstance(label, str) and 0 <= int(label) < len(self.labels):
            return int(label)
        raise ValueError(
            f"The data set has the label {label!r}, which is neither one of the {len(self.labels)} labels of "
            f"this classifier nor a position among them (0 to {len(self.labels) - 1})."
        )


def class_names(dataset: Any, label_column: str = "label") -> list[str] | None:
    """The class names that a data set carries (`datasets.ClassLabel`, torchvision's `classes`), or None."""
    feature = (getattr(dataset, "features", None) or {}).get(label_column)
    names = getattr(feature, "names", None) or getattr(dataset, "classes", None)
    return None if names is None else list(names)


def is_sigmoid_trained(model: DualEncoder) -> bool:
    """Whether the model was trained with the sigmoid loss: its configuration says so, or it is a SigLIP."""
    config = model.config
    return getattr(config, "loss_type", None) == "sigmoid" or "siglip" in config.model_type


def _inverse_temperature(model: DualEncoder) -> Tensor:
    clamped = getattr(model, "inverse_temperature", None)
    return clamped() if clamped is not None else model.logit_scale.exp()


def _check_labels_and_templates(labels: list[str], templates: list[str]) -> None:
    if not labels or not templates:
        raise ValueError("Zero-shot classification needs at least one label and one template.")
    twice = [label for label, count in Counter(labels).items() if count > 1]
    if twice:
        raise ValueError(f"Each label may be given once, but these are given more often: {', '.join(twice)}.")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"The template {template!r} must have one {{}}, where the label goes.")


def _check_number_of_classes(dataset: Any, labels: list[str], label_column: str) -> None:
    names = class_names(dataset, label_column)
    if names is not None and len(names) != len(labels):
        raise ValueError(
            f"The data set has {len(names)} classes ({', '.join(names[:3])}, ...), but the classifier was "
            f"made for {len(labels)} labels. Give one label for every class, in the data set's order."
        )


def _images_and_labels(
    dataset: Iterable[Any], image_column: str, label_column: str
) -> Iterator[tuple[Any, Any]]:
    for row in dataset:
        if not isinstance(row, dict):
            yield row[0], row[1]
        elif image_column in row and label_column in row:
            yield row[image_column], row[label_column]
        else:
            raise ValueError(
                f"The data set needs the columns {image_column!r} and {label_column!r}, but it has "
                f"{', '.join(row)}."
            )

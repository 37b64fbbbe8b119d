"""Pins: zero-shot scores equal the transformers pipeline's for one template, templates are averaged as CLIP
does, sigmoid-trained models get sigmoid scores, dropout stays off, all data set forms agree."""

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, load_dataset
from datasets import Image as ImageFeature
from torchvision.datasets import ImageFolder
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel, pipeline

from hf_customclip.inference.zero_shot import ZeroShotClassifier, class_names, is_sigmoid_trained

LABELS = ["red cat", "green dog", "blue bird", "small house", "big tree", "dog in house"]


@pytest.fixture
def classifier(model, processor):
    return ZeroShotClassifier(model, processor, LABELS, batch_size=5)


def rgb(images):
    return [image.convert("RGB") for image in images]


def test_scores_equal_the_pipelines(classifier, model, processor, images):
    """`predict` has the pipeline's form, order and scores; the pipeline needs eval mode from its caller."""
    peer = pipeline(
        "zero-shot-image-classification",
        model=model.eval(),
        tokenizer=processor.tokenizer,
        image_processor=processor.image_processor,
    )
    expected = peer(rgb(images), candidate_labels=LABELS, hypothesis_template="This is a photo of {}.")
    model.train()
    got = classifier.predict(images)
    assert len({row[0]["label"] for row in expected}) > 1, "the random model must tell images apart"
    for theirs, ours in zip(expected, got, strict=True):
        assert [row["label"] for row in ours] == [row["label"] for row in theirs]
        assert [row["score"] for row in ours] == pytest.approx([row["score"] for row in theirs], abs=1e-5)


def test_logits_equal_the_forward_pass(model, sigmoid_model, processor, images):
    for each in (model, sigmoid_model):
        classifier = ZeroShotClassifier(each, processor, LABELS, "a photo of {}")
        inputs = processor(images=rgb(images), text=[f"a photo of {x}" for x in LABELS], return_tensors="pt")
        with torch.no_grad():
            expected = each.eval()(**inputs).logits_per_image
        each.train()
        torch.testing.assert_close(classifier.logits(images), expected, atol=1e-5, rtol=1e-5)


def test_the_model_stays_in_the_mode_it_was_in(classifier, model, images):
    first = classifier.logits(images)
    assert model.training
    torch.testing.assert_close(classifier.logits(images), first, atol=0, rtol=0)


def test_templates_are_averaged_after_normalising(model, processor):
    templates = ["a photo of {}", "a drawing of {}.", "the {}"]
    classifier = ZeroShotClassifier(model, processor, LABELS, templates, batch_size=4)
    model.eval()
    for label, got in zip(LABELS, classifier.label_embeds, strict=True):
        total = torch.zeros(16)
        for template in templates:
            inputs = processor(text=[template.format(label)], return_tensors="pt")
            with torch.no_grad():
                total += torch.nn.functional.normalize(
                    model.get_text_features(**inputs).pooler_output[0], dim=0
                )
        torch.testing.assert_close(got, total / total.norm(), atol=1e-5, rtol=1e-5)
    model.train()


def test_sigmoid_trained_models_get_sigmoid_scores(model, sigmoid_model, processor, images):
    assert not is_sigmoid_trained(model)
    assert is_sigmoid_trained(sigmoid_model)
    softmax = ZeroShotClassifier(model, processor, LABELS).scores(images)
    torch.testing.assert_close(softmax.sum(1), torch.ones(len(images)))
    classifier = ZeroShotClassifier(sigmoid_model, processor, LABELS)
    torch.testing.assert_close(classifier.scores(images), classifier.logits(images).sigmoid())
    # Adding a label does not change the others' probabilities, as it would with softmax.
    fewer = ZeroShotClassifier(sigmoid_model, processor, LABELS[:3]).scores(images)
    torch.testing.assert_close(classifier.scores(images)[:, :3], fewer)


def test_batches_and_generators_do_not_change_predictions(model, processor, images):
    whole = ZeroShotClassifier(model, processor, LABELS, batch_size=100).predict(images, top_k=2)
    pieces = ZeroShotClassifier(model, processor, LABELS, batch_size=7).predict((i for i in images), top_k=2)
    assert [len(row) for row in whole] == [2] * len(images)
    assert [[x["label"] for x in row] for row in whole] == [[x["label"] for x in row] for row in pieces]


@pytest.fixture
def labelled(images):
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=LABELS)})
    return Dataset.from_dict({"image": rgb(images), "label": [i % 6 for i in range(24)]}, features=features)


def test_evaluate_agrees_with_counting(classifier, labelled):
    result = classifier.evaluate(labelled)
    order = classifier.logits(labelled["image"]).argsort(dim=1, descending=True)
    targets = torch.tensor(labelled["label"])
    hits = order == targets[:, None]
    assert result.metrics["accuracy"] == pytest.approx(hits[:, 0].double().mean().item())
    assert result.metrics["top5_accuracy"] == pytest.approx(hits[:, :5].any(1).double().mean().item())
    assert result.confusion_matrix.sum(1).tolist() == [4] * 6
    for target, predicted in zip(targets, order[:, 0], strict=True):
        assert result.confusion_matrix[target, predicted] > 0


def test_every_form_of_data_set_gives_the_same_result(classifier, labelled, tmp_path):
    expected = classifier.evaluate(labelled).confusion_matrix
    for i, row in enumerate(labelled):
        # Folder names sort into the labels' order.
        folder = tmp_path / f"{row['label']} {LABELS[row['label']]}"
        folder.mkdir(exist_ok=True)
        row["image"].save(folder / f"{i:02}.png")
    torchvision_folder = ImageFolder(tmp_path)
    hub_folder = load_dataset("imagefolder", data_dir=tmp_path, cache_dir=tmp_path / "cache", split="train")
    assert (
        class_names(torchvision_folder)
        == class_names(hub_folder)
        == [f"{i} {x}" for i, x in enumerate(LABELS)]
    )
    named_rows = [{"picture": row["image"], "kind": LABELS[row["label"]]} for row in labelled]
    for dataset in (torchvision_folder, hub_folder, labelled.to_iterable_dataset()):
        assert torch.equal(classifier.evaluate(dataset).confusion_matrix, expected)
    by_name = classifier.evaluate(named_rows, image_column="picture", label_column="kind")
    assert torch.equal(by_name.confusion_matrix, expected)


def test_wrong_input_gets_a_sentence(classifier, model, processor, labelled, images):
    with pytest.raises(ValueError, match="has 6 classes"):
        ZeroShotClassifier(model, processor, LABELS[:2]).evaluate(labelled)
    with pytest.raises(ValueError, match="the label 7"):
        classifier.evaluate([(images[0], 7)])
    with pytest.raises(ValueError, match="the label 'fish'"):
        classifier.evaluate([(images[0], "fish")])
    with pytest.raises(ValueError, match="needs the columns 'image' and 'label', but it has picture"):
        classifier.evaluate([{"picture": images[0]}])
    with pytest.raises(ValueError, match="no rows"):
        classifier.evaluate([])
    with pytest.raises(ValueError, match="more often: cat"):
        ZeroShotClassifier(model, processor, ["cat", "cat", "dog"])
    with pytest.raises(ValueError, match="must have one"):
        ZeroShotClassifier(model, processor, LABELS, "a photo")
    with pytest.raises(ValueError, match="at least one label"):
        ZeroShotClassifier(model, processor, [])


def test_transformers_own_models_can_be_measured_alike(processor, images):
    """CLIP and SigLIP (whose scores are sigmoids) go through the same classifier, for comparisons."""
    common = {"hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = common | {
        "vocab_size": len(processor.tokenizer),
        "bos_token_id": 2,
        "eos_token_id": 3,
        "projection_size": 24,
    }
    vision = common | {"image_size": 32, "patch_size": 8}
    sizes = {"text_config": text, "vision_config": vision}
    for peer in (CLIPModel(CLIPConfig(**sizes)), SiglipModel(SiglipConfig(**sizes))):
        inputs = processor(images=rgb(images), text=LABELS, return_tensors="pt")
        with torch.no_grad():
            expected = peer.eval()(**inputs).logits_per_image
        classifier = ZeroShotClassifier(peer, processor, LABELS, "{}")
        torch.testing.assert_close(classifier.logits(images), expected, atol=1e-5, rtol=1e-4)
        assert is_sigmoid_trained(peer) == isinstance(peer, SiglipModel)

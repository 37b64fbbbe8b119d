"""Pins: a checkpoint's own code is enough. In processes where the package cannot be imported, it loads by
every Auto class and by the pipeline with `trust_remote_code=True`, frozen as it was, gives the same numbers,
and does so again after being saved from there; so it does with heads in closed form on named layer features."""

import json
import os

import pytest
import torch
from interpreters import run_python
from tiny import tiny_dataset, tiny_processor, tiny_text_tower

from hf_customclip import (
    CustomClipModel,
    CustomClipProcessor,
    CustomClipTrainer,
    CustomClipTrainingArguments,
    create_model,
)

LABELS = ["red square", "blue circle"]
STRANGER = """
import importlib.abc, json, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.split(".")[0] == "hf_customclip":
            raise ModuleNotFoundError(fullname)

sys.meta_path.insert(0, Blocked())
folder, image, out = sys.argv[1:]

import torch
from PIL import Image
from transformers import (
    AutoConfig, AutoModel, AutoModelForZeroShotImageClassification, AutoProcessor, pipeline
)

model = AutoModel.from_pretrained(folder, trust_remote_code=True)
zero_shot = AutoModelForZeroShotImageClassification.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
labels = ["red square", "blue circle"]
inputs = processor(images=Image.open(image), text=labels, return_tensors="pt")
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).max_text_length == 32
model.train()
assert not model.vision_model.training and not any(p.requires_grad for p in model.text_model.parameters())
model.eval()
with torch.no_grad():
    logits = [m(**inputs).logits_per_image[0].tolist() for m in (model, zero_shot)]
model.save_pretrained(out)
processor.save_pretrained(out)
task = pipeline("zero-shot-image-classification", model=folder, trust_remote_code=True)
scores = {row["label"]: row["score"] for row in task(Image.open(image), candidate_labels=labels)}
print(json.dumps({"logits": logits, "scores": scores, "class": type(model).__module__}))
"""


def run_stranger(folder, image, out, cache):
    environment = os.environ | {"HF_MODULES_CACHE": str(cache)}
    done = run_python(STRANGER, folder, image, out, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_code_travels_with_the_checkpoint(tmp_path):
    text = tiny_text_tower("distilbert", tmp_path / "text")
    towers = {"vision": "squeezenet1_1", "text": text}
    model = create_model(**towers, vision_weights=None, projection_dim=16)
    assert model.config.vision_feature_layers[-1] == "network.features.12"
    processor = CustomClipProcessor.from_vision_text_pretrained(**towers)
    args = CustomClipTrainingArguments(
        tmp_path / "run", method="closed_form", use_cpu=True, report_to="none", disable_tqdm=True
    )
    trainer = CustomClipTrainer(model, args, None, tiny_dataset(8), processing_class=processor)
    trainer.train()
    model.eval().save_pretrained(tmp_path / "ours")
    processor.save_pretrained(tmp_path / "ours")
    image = tiny_dataset(1)["image"][0]
    image.save(tmp_path / "image.png")
    with torch.no_grad():
        expected = model(**processor(images=image, text=LABELS, return_tensors="pt")).logits_per_image[0]

    for number, folder in enumerate(("ours", "theirs"), 1):
        out = tmp_path / ("theirs" if number == 1 else "theirs again")
        told = run_stranger(tmp_path / folder, tmp_path / "image.png", out, tmp_path / f"cache{number}")
        assert told["class"].startswith("transformers_modules."), "not the checkpoint's own code"
        for logits in told["logits"]:
            assert logits == pytest.approx(expected.tolist(), abs=1e-4)
        assert sum(told["scores"].values()) == pytest.approx(1)

    ours, theirs = ({path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
                    for folder in ("ours", "theirs again"))  # fmt: skip
    assert ours.keys() == theirs.keys()
    for name in ours:
        if name.endswith((".py", ".safetensors")):
            assert ours[name] == theirs[name], f"{name} changed on its way"
    assert CustomClipProcessor.from_pretrained(tmp_path / "theirs again").to_dict() == processor.to_dict()
    again = CustomClipModel.from_pretrained(tmp_path / "theirs again")
    assert without_dtype(again.config.to_dict()) == without_dtype(model.config.to_dict())


def without_dtype(settings):
    """transformers notes on loading what type the weights had and where they lay; Trainer, that no cache is used."""
    settings = {name: without_dtype(x) if isinstance(x, dict) else x for name, x in settings.items()}
    return {
        name: value for name, value in settings.items() if name not in ("dtype", "_name_or_path", "use_cache")
    }


def test_processor_code_alone(tmp_path):
    """The processor's folder holds its own code too, whatever was saved first."""
    tiny_processor().save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    module = settings["auto_map"]["AutoProcessor"].split(".")[0]
    assert (tmp_path / f"{module}.py").exists()

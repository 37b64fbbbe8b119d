"""Pins: an adapter trained on a published model is pushed by peft, without this machine's paths, and loaded back onto
that model by its Hub id; the merged model is pushed by `hf-customclip push` and loaded by AutoModel; both embed as the
adapted model did. Pushing an adapter's folder as a whole model says what to do instead."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi, constants, hf_api
from tiny import tiny_dataset, tiny_processor
from transformers import AutoModel

from hf_customclip.cli import main
from hf_customclip.hub import PublishError, push_folder

from .conftest import WRITE
from .folders import save_ready
from .server import LocalHub

peft = pytest.importorskip("peft")
FILE = Path(__file__).resolve().parents[2] / "examples" / "lora.py"


@pytest.fixture
def default_hub(hub: LocalHub, api: HfApi, monkeypatch: pytest.MonkeyPatch) -> LocalHub:
    """The test Hub as the one that this process talks to where it names none."""
    monkeypatch.setenv("HF_TOKEN", WRITE)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(hf_api.api, "endpoint", hub.endpoint)
    return hub


def test_adapter_and_merged_model_are_pushed(default_hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    lora = SimpleNamespace(**runpy.run_path(str(FILE)))
    push_folder(save_ready(tmp_path / "base"), "alice/base", api=api)

    adapted = lora.add_adapters(AutoModel.from_pretrained("alice/base"))
    lora.train(
        adapted,
        tiny_processor(),
        {"train": tiny_dataset(24)},
        str(tmp_path),
        per_device_train_batch_size=12,
        num_train_epochs=1,
        learning_rate=1e-2,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    adapted.push_to_hub("alice/adapter")
    published = default_hub.repo("alice/adapter").resolve("main").files
    assert {"adapter_config.json", "adapter_model.safetensors"} <= published.keys()
    for name, file in published.items():
        assert str(tmp_path).encode() not in file.content, name
    config = json.loads(published["adapter_config.json"].content)
    assert config["base_model_name_or_path"] == "alice/base"
    loaded = peft.PeftModel.from_pretrained(AutoModel.from_pretrained("alice/base"), "alice/adapter")

    lora.merge("alice/base", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["push", str(tmp_path / "merged"), "alice/merged"])
    assert ended.value.code == 0
    merged = AutoModel.from_pretrained("alice/merged")

    images = list(tiny_dataset(4)["image"])
    inputs = tiny_processor()(images=images, text=["a red square"], return_tensors="pt")
    with torch.no_grad():
        before = AutoModel.from_pretrained("alice/base")(**inputs).logits_per_image
        expected = adapted.eval()(**inputs).logits_per_image
        assert not torch.allclose(before, expected, atol=1e-2)
        for model in (loaded.eval(), merged):
            torch.testing.assert_close(model(**inputs).logits_per_image, expected, rtol=1e-4, atol=1e-4)

    with pytest.raises(PublishError, match="it holds an adapter"):
        push_folder(tmp_path / "adapter", "alice/wrong", api=api)

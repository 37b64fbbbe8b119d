"""Pins: LoRA through peft on either tower: trained (also with gradient caching), saved, loaded, merged, and the merged
folder loads with AutoModel and embeds as the adapted model did; a tower with adapters is not kept, the other is."""

import importlib.util
from pathlib import Path

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor
from transformers import AutoModel

pytest.importorskip("peft")

FILE = Path(__file__).resolve().parents[2] / "examples" / "lora.py"
LAYERS = {
    "text": r"text_model\..*\.(q_lin|v_lin)",
    "vision": r"vision_model\..*\.(q_proj|v_proj|query|value)",
}


def example():
    spec = importlib.util.spec_from_file_location("lora_example", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("tower", "chunk_size"), [("text", None), ("text", 5), ("vision", None)])
def test_train_save_load_merge(tmp_path, tower, chunk_size):
    lora, base = example(), tmp_path / "base"
    tiny_model().save_pretrained(base)
    tiny_processor().save_pretrained(base)
    adapted = lora.add_adapters(AutoModel.from_pretrained(base), LAYERS[tower])
    before = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    lora.train(
        adapted,
        tiny_processor(),
        {"train": tiny_dataset(24), "validation": tiny_dataset(24)},
        str(tmp_path),
        per_device_train_batch_size=12,
        num_train_epochs=1,
        learning_rate=1e-2,
        gradient_cache_chunk_size=chunk_size,
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    moved = {name for name, p in adapted.named_parameters() if not torch.equal(p, before[name])}
    assert any("lora_B" in name and f"{tower}_model" in name for name in moved)
    assert any("projection" in name for name in moved)
    assert all("lora_" in name or "projection" in name for name in moved)
    merged = lora.merge(str(base), str(tmp_path))
    assert not any("lora" in name for name, _ in merged.named_parameters())
    inputs = tiny_processor()(
        images=list(tiny_dataset(4)["image"]), text=["a red square"], return_tensors="pt"
    )
    with torch.no_grad():
        expected = adapted.eval()(**inputs).logits_per_image
        for model in (merged.eval(), AutoModel.from_pretrained(tmp_path / "merged")):
            torch.testing.assert_close(model(**inputs).logits_per_image, expected, rtol=1e-4, atol=1e-4)


def test_a_tower_with_adapters_is_not_kept(tmp_path):
    from tiny_training import make_trainer

    model = example().add_adapters(tiny_model(), LAYERS["text"])
    trainer = make_trainer(tmp_path, model)
    inputs = next(iter(trainer.get_train_dataloader()))
    assert "image_features" in inputs and "input_ids" in inputs

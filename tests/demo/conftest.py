"""A tiny model trained until it knows its drawings, saved, with an index of them and a policy about them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip.search import ImageIndex

POLICY = """\
name: shapes
categories:
  crosses:
    prompts: ["a large black cross on white", "a large red cross on white"]
    examples: [examples/cross.png]
    threshold: {image: 0.6, text: 0.95, example: 0.999}
    action: block
"""


def trained():
    """Fitted by heart to 32 drawings and their first captions; seconds."""
    data, processor = tiny_dataset(32), tiny_processor()
    model = tiny_model(freeze_vision=False, freeze_text=False, projection_dropout=0.0)
    pixels = processor(images=list(data["image"]), return_tensors="pt")["pixel_values"]
    tokens = processor(text=[captions[0] for captions in data["captions"]], return_tensors="pt")
    inputs = {
        "pixel_values": pixels,
        "input_ids": tokens["input_ids"],
        "attention_mask": tokens["attention_mask"],
    }
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(150):
        optimizer.zero_grad()
        loss = model(**inputs, return_loss=True).loss
        loss.backward()
        optimizer.step()
        if loss < 0.01:
            break
    assert loss < 0.2, "the drawings were not learnt"
    return model.eval(), processor


@pytest.fixture(scope="session")
def shown(tmp_path_factory):
    """Paths of `model`, `index`, `policy` and `images`."""
    folder: Path = tmp_path_factory.mktemp("demo")
    model, processor = trained()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    (folder / "images" / "all").mkdir(parents=True)
    for row in tiny_dataset(32):
        row["image"].save(folder / "images" / "all" / f"{row['captions'][0].replace(' ', '-')}.png")
    ImageIndex.build(model, processor, folder / "images", directory=folder / "index")
    (folder / "rules" / "examples").mkdir(parents=True)
    tiny_dataset(4)[3]["image"].save(folder / "rules" / "examples" / "cross.png")
    (folder / "rules" / "shapes.yaml").write_text(POLICY)
    return SimpleNamespace(
        model=folder / "model",
        index=folder / "index",
        images=folder / "images",
        policy=folder / "rules" / "shapes.yaml",
    )

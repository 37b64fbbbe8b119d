"""Pins: `compare` takes any CLIP or SigLIP of transformers, each with its own processor: its numbers are those of a
brute-force ranking by the model's own logits, SigLIP's texts padded to their full length without a mask, as it was
trained; chance stands beside them."""

import json

import pytest
import torch
import transformers as tr
from tiny import IMAGE_SIZE, tiny_dataset, tiny_tokenizer

ROWS = 12
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
VISION = {**SIZES, "image_size": IMAGE_SIZE, "patch_size": 8, "initializer_range": 0.2}


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Folders of a CLIP and a SigLIP with random weights, as transformers saves them."""
    folder = tmp_path_factory.mktemp("peers")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name in ("clip", "siglip"):
            tokenizer = tiny_tokenizer("clip" if name == "clip" else "t5")
            text = {**SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 24}
            text["eos_token_id"] = tokenizer.eos_token_id
            size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
            if name == "clip":
                model = tr.CLIPModel(tr.CLIPConfig(text_config=text, vision_config=VISION))
                processor = tr.CLIPProcessor(tr.CLIPImageProcessor(size=size, crop_size=size), tokenizer)
            else:
                tokenizer.model_input_names = ["input_ids"]  # as SigLIP's
                config = tr.SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=VISION)
                model = tr.SiglipModel(config)
                processor = tr.SiglipProcessor(tr.SiglipImageProcessor(size=size), tokenizer)
            model.save_pretrained(folder / name)
            processor.save_pretrained(folder / name)
    tiny_dataset(ROWS).to_parquet(folder / "data.parquet")
    return folder


def brute_force_recalls(folder, padding):
    """Text to image by the model's own logits, each text and image alone."""
    model, processor = tr.AutoModel.from_pretrained(folder).eval(), tr.AutoProcessor.from_pretrained(folder)
    data = tiny_dataset(ROWS)
    pixels = processor(images=list(data["image"]), return_tensors="pt")["pixel_values"]
    ranks = []
    for row, captions in enumerate(data["captions"]):
        for caption in captions:
            tokens = processor(
                text=[caption], padding=padding, truncation=True, max_length=24, return_tensors="pt"
            )
            with torch.no_grad():
                scores = model(pixel_values=pixels, **tokens).logits_per_text[0]
            ranks.append(int((scores >= scores[row]).sum()))
    return {k: sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}


def test_clip_and_siglip_are_valid_peers(peers, run):
    command = ["compare", peers / "clip", peers / "siglip", peers / "data.parquet", "--split", "all"]
    code, out, err = run([*command, "--json"])
    assert code == 0, err
    measured = {row["metric"]: row for row in json.loads(out)["metrics"]}
    of_clip = brute_force_recalls(peers / "clip", True)
    of_siglip = brute_force_recalls(peers / "siglip", "max_length")
    for k in (1, 5, 10):
        row = measured[f"t2i_recall@{k}"]
        assert (row["first"], row["second"]) == pytest.approx((of_clip[k], of_siglip[k]), abs=1e-6)
        assert row["by_chance"] == pytest.approx(k / ROWS)
    assert err.count("does not know its training data") == 2

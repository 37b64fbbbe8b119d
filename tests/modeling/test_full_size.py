"""Pins: resnet34 with full-size multilingual DistilBERT (119,547 words, 6 layers, 768 wide; random weights)
builds, trains a step, saves and loads on a CPU in under 8 GB."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys, tempfile
import torch
from transformers import AutoModel, DistilBertConfig
from hf_customclip import CustomClipConfig, CustomClipModel, TorchvisionBackboneConfig

text = DistilBertConfig(vocab_size=119547)
vision = TorchvisionBackboneConfig(architecture="resnet34")
model = CustomClipModel(CustomClipConfig.from_vision_text_configs(vision, text)).train()
optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
tokens = torch.randint(1000, 100000, (16, 32))
pixels, mask = torch.randn(16, 3, 224, 224), torch.ones_like(tokens)
before = model(input_ids=tokens, attention_mask=mask, pixel_values=pixels, return_loss=True).loss
before.backward()
optimizer.step()
with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    again = AutoModel.from_pretrained(folder)
same = all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))
print(json.dumps({
    "parameters": sum(p.numel() for p in model.parameters()), "loss": before.item(), "same": same,
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
}))
"""


@pytest.mark.slow
def test_default_towers_in_under_8_gb():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    # DistilBERT-multilingual 134,734,080, resnet34 without classifier 21,284,672, heads and temperature.
    assert told["parameters"] == 134_734_080 + 21_284_672 + 1_181_696 + 1
    assert 0 < told["loss"] < 20
    assert told["same"]
    assert told["peak"] < 8 * 2**30

"""Pins: two real processes train towers that have parameters no embedding depends on (a mask token, a global
attention, a head of another task, poolers), also with gradient checkpointing, where DistributedDataParallel waits
for every gradient: these are frozen, all others move, and both processes end in the same weights."""

import json
import os
from pathlib import Path

import pytest
from interpreters import run_processes

TRAIN = """
import json, sys
import torch
import torch.distributed as dist
import transformers as tr
from tiny import tiny_model
from tiny_training import make_trainer
from hf_customclip import CustomClipConfig, CustomClipModel

sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2}
text = {**sizes, "intermediate_size": 64, "vocab_size": 160, "max_position_embeddings": 80, "pad_token_id": 1}
usual = tiny_model().config
towers = {
    "dinov2": (tr.Dinov2Config(**sizes, image_size=32, patch_size=8, use_mask_token=True), usual.text_config),
    "longformer": (usual.vision_config, tr.LongformerConfig(**text, attention_window=16)),
    "esm": (usual.vision_config, tr.EsmConfig(**text, mask_token_id=2)),
    "bert": (usual.vision_config, tr.BertConfig(**text)),
}
told = {}
for name, (vision, text) in towers.items():
    for checkpointing in (False, True):
        torch.manual_seed(0)
        config = CustomClipConfig.from_vision_text_configs(
            vision, text, projection_dim=16, freeze_vision=False, freeze_text=False)
        trainer = make_trainer(
            sys.argv[1], CustomClipModel(config), max_steps=2, per_device_train_batch_size=8, learning_rate=1e-2,
            gradient_checkpointing=checkpointing, ddp_find_unused_parameters=False, warmup_steps=0,
            ema_decay=None, head_init=None, weight_decay=0.0, lr_scheduler_type="constant")
        assert trainer.args.world_size == 2
        before = {key: p.detach().clone() for key, p in trainer.model.named_parameters()}
        trainer.train()
        after = dict(trainer.model.named_parameters())
        same = []
        for p in after.values():
            other = p.detach().clone()
            dist.broadcast(other, 0)
            same.append(torch.equal(other, p))
        told[f"{name} {checkpointing}"] = {
            "frozen": [key for key, p in after.items() if not p.requires_grad],
            "still": [key for key, p in after.items() if torch.equal(p, before[key])],
            "same": all(same),
        }
if dist.get_rank() == 0:
    print(json.dumps(told))
"""
UNUSED = {"dinov2": ["mask_token"], "longformer": ["_global", "pooler"], "esm": ["contact_head", "pooler"],
          "bert": ["pooler"]}  # fmt: skip


@pytest.mark.slow
def test_two_processes(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = run_processes(TRAIN, tmp_path, env=environment)
    assert all(each.returncode == 0 for each in done), done[0].stderr[-3000:]
    told = json.loads(next(line for line in done[0].stdout.splitlines() if line.startswith('{"')))
    assert len(told) == 2 * len(UNUSED)
    for case, result in told.items():
        name = case.split()[0]
        assert result["same"], case
        for part in UNUSED[name]:
            assert any(part in key for key in result["frozen"]), (case, part)
        assert all(any(part in key for part in UNUSED[name]) for key in result["frozen"]), case
        assert result["still"] == result["frozen"], case

"""Pins: `hf-customclip info` reads from files what the loaded model would say (counts, temperature, widths), for whole,
sharded, half-precision, sigmoid and partly unfrozen models, without torch; damaged files are said to be."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import tiny_model

from hf_customclip.cli.info import describe


@pytest.mark.parametrize(
    ("config", "dtype", "shard"),
    [
        ({}, torch.float32, "5GB"),
        ({"loss_type": "sigmoid", "projection_type": "linear"}, torch.float32, "20KB"),
        ({"freeze_text": False, "learn_logit_scale": False}, torch.bfloat16, "5GB"),
        ({"logit_scale_init_value": 6.0, "text_pooling": "mean"}, torch.float16, "5GB"),
        ({"vision_feature_layers": [0, 2], "text_feature_layers": [1]}, torch.float32, "5GB"),
    ],
)
def test_the_files_say_what_the_model_says(config, dtype, shard, tmp_path):
    model = tiny_model(**config).to(dtype)
    model.save_pretrained(tmp_path, max_shard_size=shard)
    facts = describe(tmp_path)
    assert facts["parameters"] == {
        "total": sum(p.numel() for p in model.parameters()),
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "dtype": str(dtype).removeprefix("torch."),
    }
    for tower in ("vision", "text"):
        about = facts["towers"][tower]
        assert about["parameters"] == sum(p.numel() for p in getattr(model, f"{tower}_model").parameters())
        assert about["frozen"] == getattr(model.config, f"freeze_{tower}")
    assert facts["towers"]["vision"]["width"] == model.config.vision_embed_dim
    assert facts["towers"]["text"]["width"] == model.text_embed_dim
    assert facts["towers"]["text"]["pooling"] == model.config.text_pooling
    assert facts["inverse_temperature"] == pytest.approx(model.inverse_temperature().item(), rel=1e-6)
    bias = getattr(model, "logit_bias", None)
    assert facts["logit_bias"] == (None if bias is None else pytest.approx(bias.item()))
    assert facts["projection"] == {"type": model.config.projection_type, "dim": 16}
    assert (len(facts["files"]) > 1) == (shard == "20KB")


def test_part_of_a_tower(tmp_path):
    model = tiny_model()
    model.unfreeze("vision", last_groups=1)
    model.save_pretrained(tmp_path)
    facts = describe(tmp_path)
    assert facts["parameters"]["trained"] is None and facts["towers"]["vision"]["unfrozen_groups"] == 1


def test_results_come_from_the_test_split_where_there_was_one(tmp_path, run):
    tiny_model().save_pretrained(tmp_path)
    results = {"eval_rsum": 100.0, "eval_loss": 1.0}
    (tmp_path / "all_results.json").write_text(json.dumps(results))
    assert describe(tmp_path)["results"] == {"eval_rsum": 100.0}
    (tmp_path / "all_results.json").write_text(
        json.dumps({**results, "test_rsum": 90.0, "test_t2i_recall@1": 0.5})
    )
    assert describe(tmp_path)["results"] == {"test_t2i_recall@1": 0.5, "test_rsum": 90.0}
    code, out, err = run(["info", tmp_path])
    assert (code, err) == (0, "") and "test_rsum 90.000" in out and "vit" in out and "distilbert" in out
    assert json.loads(run(["info", tmp_path, "--json"])[1]) == {"model": str(tmp_path), **describe(tmp_path)}


def test_it_needs_no_torch(saved_model):
    code = (
        "import sys\nfrom hf_customclip.cli import main\n"
        "try: main(['info', sys.argv[1]])\nexcept SystemExit as stop: assert not stop.code\n"
        "assert not {'torch', 'transformers', 'numpy', 'safetensors'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, saved_model], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_no_model_is_said(tmp_path, run):
    def said(name):
        code, out, err = run(["info", name])
        assert (code, out) == (1, "")
        return err

    assert "There is no folder './none'" in said("./none")
    assert "holds no config.json, so no saved model" in said(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    assert "is a 'clip', not a custom CLIP model" in said(tmp_path)
    tiny_model().config.save_pretrained(tmp_path)
    assert "holds no weights" in said(tmp_path)
    for content, problem in (
        (b"", "is no safetensors file"),
        (b"\x08" + b"\0" * 7 + b"garbage!", "is no safetensors"),
    ):
        (tmp_path / "model.safetensors").write_bytes(content)
        assert problem in said(tmp_path)
    tiny_model().save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    assert f"is cut short: {len(whole) - 1:,} of {len(whole):,} bytes are there" in said(tmp_path)

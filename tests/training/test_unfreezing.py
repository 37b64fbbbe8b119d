"""Pins: towers and heads by their own learning rates, lower layers slower, by the groups that freezing goes by;
image locked and text trained; gradient checkpointing with frozen and trained towers gives the same weights;
torch.compile trains, given as a compiled model too; half-precision towers are trained in float32; frozen BatchNorm
does not move in 100 steps."""

import pytest
import torch
from tiny import tiny_model
from tiny_training import make_trainer

from hf_customclip import CustomClipConfig, CustomClipModel
from hf_customclip.modeling.towers_custom_clip import layer_groups


def rates(trainer):
    found = {p: group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    return {name: found[p] for name, p in trainer.model.named_parameters() if p in found}


def test_rates_by_layer_group(tmp_path):
    model = tiny_model()
    model.unfreeze("text")
    model.unfreeze("vision", last_groups=1)
    trainer = make_trainer(
        tmp_path, model, learning_rate=1e-3, tower_learning_rate=1e-4, layer_decay=0.5, weight_decay=0.1
    )
    found = rates(trainer)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    for name, rate in found.items():
        if not name.startswith(("text_model.", "vision_model.")):
            assert rate == 1e-3
    groups = layer_groups(model.text_model)
    names = {p: name for name, p in model.named_parameters()}
    for depth, group in enumerate(reversed(groups)):
        for module in group:
            for p in module.parameters(recurse=False):
                assert found[names[p]] == pytest.approx(1e-4 * 0.5**depth)
    assert {round(found[n], 9) for n in found if n.startswith("vision_model.")} == {1e-4}
    decays = {p: group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert decays[model.logit_scale] == 0 and decays[model.visual_projection.linear1.weight] == 0.1
    with pytest.raises(ValueError, match="layer_decay must be above 0 and at most 1"):
        make_trainer(tmp_path, layer_decay=0.0)


def test_rates_survive_a_resume(tmp_path):
    def run(folder, resume=None):
        model = tiny_model()
        model.unfreeze("text", last_groups=2)
        options = {"tower_learning_rate": 1e-4, "layer_decay": 0.5, "save_strategy": "steps", "save_steps": 2}
        trainer = make_trainer(folder, model, **options)
        trainer.train(resume_from_checkpoint=resume)
        return model

    whole = run(tmp_path / "a")
    resumed = run(tmp_path / "b", str(tmp_path / "a" / "checkpoint-4"))
    for (name, a), b in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b[1]), name


def test_image_locked_text_trained(tmp_path):
    model = tiny_model()
    model.unfreeze("text")
    before = {name: p.clone() for name, p in model.named_parameters()}
    make_trainer(tmp_path, model, max_steps=3).train()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert not any(name.startswith("vision_model.") for name in moved)
    assert any(name.startswith("text_model.") for name in moved)


@pytest.mark.parametrize("unfrozen", [False, True])
def test_gradient_checkpointing_changes_nothing(tmp_path, unfrozen):
    runs = []
    for on in (False, True):
        model = tiny_model()
        if unfrozen:
            model.unfreeze()
        options = {"gradient_checkpointing": on, "feature_cache": "never", "max_steps": 3}
        make_trainer(tmp_path, model, **options).train()
        runs.append(model)
    for (name, a), b in zip(runs[0].named_parameters(), runs[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.slow
def test_compiled_training_is_the_same(tmp_path):
    runs = []
    for on in (False, True):
        model = tiny_model(projection_dropout=0.0)
        model.unfreeze("text", last_groups=1)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        options = {"torch_compile": True, "torch_compile_backend": "aot_eager"} if on else {}
        trainer = make_trainer(tmp_path, model, optim="sgd", learning_rate=0.1, max_steps=2, **options)
        trainer.train()
        runs.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert runs[0] == pytest.approx(runs[1], abs=1e-4)


@pytest.mark.slow
def test_frozen_batch_norm_stands_still_for_100_steps(tmp_path):
    vision = {"model_type": "torchvision_backbone", "architecture": "shufflenet_v2_x0_5", "image_size": 32}
    model = CustomClipModel(
        CustomClipConfig(vision_config=vision, text_config=tiny_model().config.text_config, projection_dim=16)
    )
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"max_steps": 100, "per_device_train_batch_size": 4, "logging_steps": 100}
    make_trainer(tmp_path, model, rows=8, feature_cache="never", **options).train()
    after = model.state_dict()
    assert any("running_mean" in name for name in before)
    for name, tensor in before.items():
        frozen = name.startswith(("vision_model.", "text_model."))
        assert torch.equal(tensor, after[name]) == frozen, name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_towers_are_trained_in_float32(tmp_path, dtype):
    model = tiny_model()
    model.vision_model.to(dtype)
    model.text_model.to(dtype)
    model.unfreeze("text", last_groups=1)
    before = {name: p.clone() for name, p in model.named_parameters() if p.requires_grad}
    options = {"learning_rate": 1e-5, "max_steps": 2, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    make_trainer(tmp_path, model, **options).train()
    assert {p.dtype for p in model.vision_model.parameters()} == {dtype}  # frozen: as it was loaded
    assert {p.dtype for p in model.text_model.parameters()} == {torch.float32}
    for name, weights in before.items():
        if name.startswith("text_model.") and name.endswith("weight"):
            moved = (model.get_parameter(name) != weights).float().mean()
            assert moved > 0.9, name


def test_a_compiled_model_trains_and_saves_under_its_own_names(tmp_path):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    model = tiny_model()
    model.unfreeze("text", last_groups=1)
    compiled = torch.compile(model, backend=backend)
    trainer = make_trainer(tmp_path, compiled, save_strategy="steps", save_steps=3, max_steps=3)
    trainer.train()
    trainer.save_model()
    assert graphs, "nothing was compiled"
    for folder in (tmp_path, tmp_path / "checkpoint-3"):
        saved = CustomClipModel.from_pretrained(folder).state_dict()
        assert saved.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())

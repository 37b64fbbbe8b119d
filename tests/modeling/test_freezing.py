"""Pins: frozen towers get no gradient, build no graph, stay in eval mode in `train()` and keep all BatchNorm
statistics bit for bit in training, also after loading and in half precision; layer groups cut a tower into
all its parameters, and partial unfreezing trains the last of them and nothing else."""

import copy

import pytest
import torch
from tiny import (
    TEXT_KINDS,
    VISION_KINDS,
    tiny_dataset,
    tiny_model,
    tiny_processor,
    tiny_text_tower,
    tiny_vision_tower,
)
from torch import nn

from hf_customclip import CustomClipModel
from hf_customclip.modeling.towers_custom_clip import layer_groups, load_text_tower, load_vision_tower

HEADS = {"visual_projection", "text_projection", "logit_scale"}


def batch(count=4):
    data = tiny_dataset(count)
    text = [captions[0] for captions in data["captions"]]
    return tiny_processor()(images=list(data["image"]), text=text, return_tensors="pt")


def train_steps(model, inputs, steps=2):
    """With weight decay, which would move even a parameter whose gradient is zero."""
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1
    )
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        loss = model(**inputs, return_loss=True).loss
        loss.backward()
        optimizer.step()
    return model


def parts(names):
    return {name.split(".")[0] for name in names}


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def moved(before, model):
    return {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.fixture(params=["torchvision", "resnet", "timm"])
def batch_norm_model(request, tmp_path):
    vision = tiny_vision_tower(request.param, tmp_path / "vision")
    text = tiny_text_tower("distilbert", tmp_path / "text")
    if request.param == "torchvision":
        vision = "shufflenet_v2_x0_5"
    model = CustomClipModel.from_vision_text_pretrained(vision, text, vision_weights=None, projection_dim=16)
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.vision_model.modules())
    return model


def test_frozen_batch_norm_does_not_move(batch_norm_model):
    """The tutorial's stays live in train mode: its "frozen" features drift with every batch."""
    model, inputs = batch_norm_model, batch()
    before = copy.deepcopy(model.state_dict())
    train_steps(model, inputs)
    assert parts(moved(before, model)) <= HEADS
    assert moved(before, model) == trained(model)
    # Left alone as a torch user would leave it, it does move: the test can fail.
    nn.Module.train(model.vision_model)
    model.vision_model(inputs["pixel_values"])
    assert any("running_mean" in name for name in moved(before, model))


def test_frozen_towers_are_inert_whatever_train_says():
    model = tiny_model()
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is mode and model.visual_projection.training is mode
        for tower in (model.vision_model, model.text_model):
            assert not any(module.training for module in tower.modules())
            assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_gradient_only_where_it_belongs():
    model = tiny_model().train()
    model(**batch(), return_loss=True).loss.backward()
    assert parts(trained(model)) == HEADS
    for name, parameter in model.named_parameters():
        has_gradient = parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)
        assert has_gradient is (name.split(".")[0] in HEADS), name


def test_frozen_towers_build_no_graph():
    """Nothing of them is kept for a backward pass that never comes."""
    model, inputs = tiny_model().train(), batch()
    out = model(**inputs, return_loss=True)
    assert out.vision_model_output.last_hidden_state.grad_fn is None
    assert out.text_model_output.last_hidden_state.grad_fn is None
    assert out.loss.grad_fn is not None
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        model(**inputs, return_loss=True)
    in_towers = {p.data_ptr() for tower in (model.vision_model, model.text_model) for p in tower.parameters()}
    assert kept and not in_towers & {tensor.data_ptr() for tensor in kept}


def test_frozen_dropout_is_off():
    model, inputs = tiny_model().train(), batch()
    first, second = (model.pool_text(inputs["input_ids"], inputs["attention_mask"]) for _ in range(2))
    assert torch.equal(first, second)
    model.unfreeze("text")
    model.train()
    first, second = (model.pool_text(inputs["input_ids"], inputs["attention_mask"]) for _ in range(2))
    assert not torch.equal(first, second), "a trained tower's dropout is on"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, set()),
        ({"freeze_text": False}, {"text_model"}),
        ({"freeze_vision": False, "freeze_text": False}, {"vision_model", "text_model"}),
        ({"text_unfrozen_groups": 1}, {"text_model"}),
    ],
    ids=["both frozen", "text trained", "both trained", "last text layer trained"],
)
def test_loading_keeps_what_is_frozen(options, expected, dtype, tmp_path):
    """Loading makes new parameters, all trainable: the freeze is applied again."""
    model = tiny_model(**options)
    model.save_pretrained(tmp_path)
    for loaded in (
        CustomClipModel.from_pretrained(tmp_path, dtype=dtype),
        CustomClipModel.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)[0],
    ):
        assert trained(loaded) == trained(model)
        assert parts(trained(loaded)) == HEADS | expected
        loaded.train()
        for name in ("vision_model", "text_model"):
            live = any(module.training for module in getattr(loaded, name).modules())
            assert live is (name in expected)


def test_freeze_and_unfreeze_are_kept_in_the_configuration(tmp_path):
    model = tiny_model()
    model.unfreeze()
    assert parts(trained(model)) == HEADS | {"vision_model", "text_model"}
    model.freeze("vision")
    model.unfreeze("text", last_groups=1)
    assert (model.config.freeze_vision, model.config.freeze_text, model.config.text_unfrozen_groups) == (
        True,
        True,
        1,
    )
    model.save_pretrained(tmp_path)
    assert trained(CustomClipModel.from_pretrained(tmp_path)) == trained(model)
    model.freeze()
    assert parts(trained(model)) == HEADS


def test_partial_unfreezing_trains_the_last_layer_only():
    model, inputs = tiny_model(), batch()
    model.unfreeze("vision", last_groups=1)
    names = {name for name in trained(model) if name.startswith("vision_model")}
    # The pooler would be trained too, and so are the last layer and the norm behind it.
    layers = {name for name, _ in model.vision_model.named_parameters() if ".1." in name}
    assert {f"vision_model.{name}" for name in layers} < names
    assert not any("embeddings" in name or ".0." in name for name in names)
    before = copy.deepcopy(model.state_dict())
    train_steps(model, inputs)
    assert moved(before, model) == trained(model)
    model.train()
    live = {name for name, module in model.vision_model.named_modules() if module.training}
    assert live and not any(".0." in name or "embeddings" in name for name in live)


def test_partially_frozen_batch_norm_does_not_move(tmp_path):
    """Of a partly trained net, the frozen stages' statistics stay; those of the trained stage move."""
    model = CustomClipModel.from_vision_text_pretrained(
        "shufflenet_v2_x0_5", tiny_text_tower("distilbert", tmp_path), vision_weights=None
    )
    model.unfreeze("vision", last_groups=1)
    before = copy.deepcopy(model.state_dict())
    train_steps(model, batch(), steps=1)
    statistics = {name for name in moved(before, model) if "running_mean" in name}
    assert statistics and all(".conv5." in name for name in statistics)


def test_unused_pooler_is_not_trained():
    """DistributedDataParallel would wait for its gradient."""
    model = tiny_model(vision_pooling="cls", freeze_vision=False)
    assert not any("pooler" in name for name in trained(model))
    model(**batch(), return_loss=True).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert any("pooler" in name for name in trained(tiny_model(freeze_vision=False)))


def test_made_trainable_by_hand():
    """`requires_grad` set from outside, by an adapter library for example, is honoured in the next pass."""
    model, inputs = tiny_model().train(), batch()
    for parameter in model.text_model.parameters():
        parameter.requires_grad_(True)
    model(**inputs, return_loss=True).loss.backward()
    assert all(module.training for module in model.text_model.modules())
    assert not any(module.training for module in model.vision_model.modules())
    assert model.text_model.get_input_embeddings().weight.grad.abs().sum() > 0


def test_evaluation_is_left_alone():
    """In eval mode nothing wakes: neither a trained tower nor one made trainable by hand."""
    model = tiny_model(freeze_text=False).eval()
    model.vision_model.requires_grad_(True)
    model(**batch())
    assert not any(module.training for module in model.modules())


def towers():
    yield from (("vision", kind) for kind in VISION_KINDS)
    yield from (("text", kind) for kind in TEXT_KINDS)


@pytest.mark.parametrize(("side", "kind"), list(towers()))
def test_layer_groups_hold_every_parameter_once(side, kind, tmp_path):
    make, load = {
        "vision": (tiny_vision_tower, load_vision_tower),
        "text": (tiny_text_tower, load_text_tower),
    }[side]
    tower = load(make(kind, tmp_path))
    groups = layer_groups(tower)
    owned = [{id(p) for module in group for p in module.parameters(recurse=False)} for group in groups]
    assert sum(map(len, owned)) == len(list(tower.parameters())), "some are missing or in two groups"
    assert set().union(*owned) == {id(p) for p in tower.parameters()}
    assert len(groups) >= 3, "an embedding and at least two layers"
    assert all(owned)


def test_layer_groups_of_a_resnet_by_hand():
    """The stem, then the four stages."""
    tower = load_vision_tower("resnet18", None)
    firsts = {id(module): name for name, module in tower.named_modules()}
    assert [firsts[id(group[0])] for group in layer_groups(tower)][1:] == [
        f"network.layer{stage}" for stage in (1, 2, 3, 4)
    ]


@pytest.mark.parametrize("count", [-1, 4])
def test_too_many_groups(count):
    with pytest.raises(ValueError, match=f"last_groups={count}: the text tower has 3 layer groups"):
        tiny_model().unfreeze("text", last_groups=count)


def test_unknown_tower():
    with pytest.raises(ValueError, match="no tower 'audio'; the towers are 'vision' and 'text'"):
        tiny_model().freeze("audio")


def test_gradient_checkpointing_trains_the_same():
    inputs = batch()
    grads = []
    for checkpointing in (False, True):
        model = tiny_model(freeze_text=False, projection_dropout=0.0).train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**inputs, return_loss=True).loss.backward()
        grads.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, gradient in grads[0].items():
        torch.testing.assert_close(gradient, grads[1][name], rtol=1e-4, atol=1e-6)

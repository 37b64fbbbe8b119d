"""Pins: every torchvision classification net becomes a tower (built without data, its classifier off, saved
and loaded); its features are torchvision's own; random weights are of a size that features survive."""

import pytest
import torch
from torchvision import models
from transformers import AutoConfig, AutoModel

from hf_customclip import (
    CustomClipConfig,
    CustomClipModel,
    TorchvisionBackboneConfig,
    TorchvisionBackboneModel,
)

NAMES = models.list_models(module=models)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_classification_net(name):
    """On the meta device, where from_pretrained builds too."""
    with torch.device("meta"):
        tower = TorchvisionBackboneModel(TorchvisionBackboneConfig(architecture=name)).eval()
        size = 299 if name == "inception_v3" else 224
        pooled = tower(torch.zeros(2, 3, size, size)).pooler_output
    assert pooled.shape == (2, tower.config.hidden_size)
    assert pooled.shape[1] != 1000, "the classifier is still there"
    assert not any("aux" in name.lower() for name, _ in tower.named_parameters())


def test_all_eighty_names_are_there():
    assert len(NAMES) == 80


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("squeezenet1_1", 512), ("mobilenet_v3_small", 1024)]
)
@torch.no_grad()
def test_features_are_torchvisions(name, width):
    """What torchvision's net gives to its last layer, with its own weights."""
    torch.manual_seed(0)
    peer = models.get_model(name, weights=None).eval()
    tower = TorchvisionBackboneModel.from_torchvision(name, None).eval()
    tower.network.load_state_dict({key: peer.state_dict()[key] for key in tower.network.state_dict()})
    pixels, seen = torch.randn(2, 3, 64, 64), []
    last = [m for m in peer.modules() if isinstance(m, (torch.nn.Linear, torch.nn.Conv2d))]
    last = peer.classifier[1] if name.startswith("squeezenet") else last[-1]
    last.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    peer(pixels)
    out = tower(pixels)
    expected = seen[0].mean((2, 3)) if seen[0].dim() == 4 else seen[0]
    assert out.pooler_output.shape == (2, width) and out.last_hidden_state.shape == (2, 1, width)
    if name.startswith("squeezenet"):
        expected = seen[0].relu().mean((2, 3))  # its last convolution is followed by a ReLU and the pooling
    torch.testing.assert_close(out.pooler_output, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["regnet_y_400mf", "shufflenet_v2_x0_5"])
def test_loads_by_auto_model(name, tmp_path):
    """RegNet cannot work out its widths on the meta device, where from_pretrained builds."""
    tower = TorchvisionBackboneModel.from_torchvision(name, None)
    tower.save_pretrained(tmp_path)
    again, info = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(again) is TorchvisionBackboneModel and not any(info.values())
    assert AutoConfig.from_pretrained(tmp_path).architecture == name
    for key, value in tower.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    assert not any(tensor.is_meta for tensor in again.state_dict().values())


@pytest.mark.parametrize("name", ["resnet34", "densenet121", "mobilenet_v2", "efficientnet_b0"])
@torch.no_grad()
def test_random_features_do_not_vanish(name):
    """transformers' usual 0.02 shrinks an image to nothing on its way, fan-out explodes in DenseNets."""
    tower = TorchvisionBackboneModel.from_torchvision(name, None).eval()
    features = tower(torch.randn(2, 3, 224, 224)).pooler_output
    assert 1e-4 < features.std() < 1e4
    assert (features[0] - features[1]).abs().mean() > 0.01 * features.abs().mean()


def test_missing_weights_are_made_anew(tmp_path):
    """As when torch built them: nothing stays uninitialised, BatchNorm statistics included."""
    from safetensors.torch import load_file, save_file

    TorchvisionBackboneModel.from_torchvision("shufflenet_v2_x0_5", None).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = [name for name in weights if name.startswith("network.stage2")]
    save_file(
        {n: w for n, w in weights.items() if n not in gone}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    again = TorchvisionBackboneModel.from_pretrained(tmp_path).state_dict()
    for name in gone:
        if name.endswith("running_var"):
            assert (again[name] == 1).all(), name
        elif name.endswith(("running_mean", "bias", "num_batches_tracked")):
            assert (again[name] == 0).all(), name
        else:
            assert torch.isfinite(again[name]).all() and 0 < again[name].std() + again[name].mean() < 10, name


def test_vision_transformers_of_other_sizes():
    """torchvision's default ViT-H/14 weights are for 518 pixels, and so many position embeddings."""
    with torch.device("meta"):
        tower = TorchvisionBackboneModel(TorchvisionBackboneConfig(architecture="vit_b_32", image_size=384))
        assert tower.network.encoder.pos_embedding.shape[1] == (384 // 32) ** 2 + 1
        whole = CustomClipModel(CustomClipConfig(vision_config=tower.config))
    assert whole.config.vision_embed_dim == 768


@pytest.mark.slow
def test_size_comes_with_the_weights():
    assert TorchvisionBackboneModel.from_torchvision("vit_b_32", None).config.image_size == 224
    assert TorchvisionBackboneModel.from_torchvision("inception_v3", None).config.image_size == 299

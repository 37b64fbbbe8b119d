"""transformers' common tests for this package's classes, in the manner of its CLIPModelTest.

Run by test_common_suite.py, each class in a process of its own; alone:
`COMMON_SUITE=FOLDER PYTHONPATH=tests:tests/transformers_common python -m unittest cases.TrainedViTBert`.
"""

import os
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from suite import load
from tiny import tiny_tokenizer
from transformers import BertConfig, CLIPImageProcessor, DistilBertConfig, PretrainedConfig, ViTConfig

from hf_customclip import (
    CustomClipConfig,
    CustomClipModel,
    CustomClipProcessor,
    TorchvisionBackboneConfig,
    TorchvisionBackboneModel,
)

# Some tests write every parameter into a message that nobody reads, which takes most of their time.
torch.set_printoptions(threshold=0, edgeitems=1)

SUITE = Path(os.environ["COMMON_SUITE"])
configuration = load(SUITE, "test_configuration_common")
modeling: Any = load(SUITE, "test_modeling_common")
processing: Any = load(SUITE, "test_processing_common")

# CLIP's testers' numbers.
BATCH, LENGTH, VOCABULARY, IMAGE, PATCH = 12, 7, 99, 30, 6
SHAPE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def vit() -> PretrainedConfig:
    return ViTConfig(**SHAPE, intermediate_size=37, image_size=IMAGE, patch_size=PATCH)


def bert() -> PretrainedConfig:
    return BertConfig(**SHAPE, intermediate_size=37, vocab_size=VOCABULARY, max_position_embeddings=64)


def shufflenet() -> PretrainedConfig:
    """The smallest of torchvision's, with BatchNorm."""
    return TorchvisionBackboneConfig(architecture="shufflenet_v2_x0_5")


def distilbert() -> PretrainedConfig:
    return DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=2, n_heads=4, hidden_dim=37, max_position_embeddings=64
    )


class TowerTester:
    """One tower's part of the inputs, and the shape that its outputs have."""

    batch_size, is_training = BATCH, True

    def __init__(self, whole: "DualEncoderTester", inputs: tuple[str, ...], **shape: int) -> None:
        self.whole, self.inputs = whole, inputs
        vars(self).update(SHAPE, **shape)

    def prepare_config_and_inputs_for_common(self) -> tuple[CustomClipConfig, dict[str, Any]]:
        config, inputs = self.whole.prepare_config_and_inputs_for_common()
        return config, {name: inputs[name] for name in self.inputs}


class DualEncoderTester:
    """What the mixin calls a model tester: a tiny configuration and inputs for it."""

    batch_size, is_training = BATCH, True

    def __init__(
        self,
        vision: Callable[[], PretrainedConfig],
        text: Callable[[], PretrainedConfig],
        image_size: int = IMAGE,
        **options: Any,
    ) -> None:
        self.vision, self.text, self.image_size, self.options = vision, text, image_size, options
        patches = (image_size // PATCH) ** 2
        self.text_model_tester = TowerTester(self, ("input_ids", "attention_mask"), seq_length=LENGTH)
        self.vision_model_tester = TowerTester(self, ("pixel_values",), seq_length=patches + 1)

    def get_config(self) -> CustomClipConfig:
        towers = self.vision(), self.text()
        return CustomClipConfig.from_vision_text_configs(*towers, projection_dim=24, **self.options)

    def prepare_config_and_inputs_for_common(self) -> tuple[CustomClipConfig, dict[str, Any]]:
        inputs = {
            "input_ids": modeling.ids_tensor([BATCH, LENGTH], VOCABULARY),
            "attention_mask": modeling.random_attention_mask([BATCH, LENGTH]),
            "pixel_values": modeling.floats_tensor([BATCH, 3, self.image_size, self.image_size]),
            "return_loss": True,
        }
        return self.get_config(), inputs


class DualEncoderTests(modeling.ModelTesterMixin):
    """CLIP's switches; of the tests that it skips, those that ask the towers' outputs of the whole model."""

    all_model_classes = (CustomClipModel,)
    additional_model_inputs = ("pixel_values",)
    test_attention_outputs = False
    _is_composite = True

    @unittest.skip(
        "the towers' hidden states are in vision_model_output and text_model_output, as CLIP's are"
    )
    def test_hidden_states_output(self) -> None: ...

    @unittest.skip(
        "the towers' hidden states are in vision_model_output and text_model_output, as CLIP's are"
    )
    def test_retain_grad_hidden_states_attentions(self) -> None: ...


class TrainedViTBert(DualEncoderTests, unittest.TestCase):
    def setUp(self) -> None:
        self.model_tester = DualEncoderTester(vit, bert, freeze_vision=False, freeze_text=False)


class OtherChoices(DualEncoderTests, unittest.TestCase):
    """Everything that is not the default; one tower frozen, one trained."""

    def setUp(self) -> None:
        poolings = {"vision_pooling": "cls", "text_pooling": "mean"}
        choices = {"projection_type": "linear", "loss_type": "sigmoid", "freeze_text": False}
        self.model_tester = DualEncoderTester(vit, distilbert, **poolings, **choices)


class FrozenTorchvisionDistilBert(DualEncoderTests, unittest.TestCase):
    """The default recipe."""

    def setUp(self) -> None:
        self.model_tester = DualEncoderTester(shufflenet, distilbert, image_size=32)

    @unittest.skip("a torchvision net gives no hidden states")
    def test_get_image_features_hidden_states(self) -> None: ...

    @unittest.skip("a torchvision net gives no attentions")
    def test_get_image_features_attentions(self) -> None: ...


class TorchvisionBackboneTester:
    batch_size, is_training = BATCH, False  # a tower has no loss of its own

    def prepare_config_and_inputs_for_common(self) -> tuple[PretrainedConfig, dict[str, Any]]:
        return shufflenet(), {"pixel_values": modeling.floats_tensor([BATCH, 3, 32, 32])}


class TorchvisionBackbone(modeling.ModelTesterMixin, unittest.TestCase):
    all_model_classes = (TorchvisionBackboneModel,)
    has_attentions = False
    test_resize_embeddings = False

    def setUp(self) -> None:
        self.model_tester = TorchvisionBackboneTester()

    @unittest.skip("a torchvision net gives no hidden states")
    def test_hidden_states_output(self) -> None: ...

    @unittest.skip("a torchvision net gives no hidden states")
    def test_retain_grad_hidden_states_attentions(self) -> None: ...

    @unittest.skip("an image has no token embeddings")
    def test_model_get_set_embeddings(self) -> None: ...


class Configurations(unittest.TestCase):
    def setUp(self) -> None:
        self.model_tester = DualEncoderTester(vit, bert)

    def check(self, config_class: type[PretrainedConfig], *properties: str) -> None:
        configuration.ConfigTester(
            self, config_class=config_class, has_text_modality=False, common_properties=list(properties)
        ).run_common_tests()

    def test_custom_clip(self) -> None:
        self.check(CustomClipConfig, "projection_dim", "logit_scale_init_value")

    def test_torchvision_backbone(self) -> None:
        self.check(TorchvisionBackboneConfig, "num_channels", "image_size")


class Processor(processing.ProcessorTesterMixin, unittest.TestCase):
    processor_class = CustomClipProcessor

    @classmethod
    def _setup_image_processor(cls) -> CLIPImageProcessor:
        return CLIPImageProcessor()

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        return tiny_tokenizer("bert")

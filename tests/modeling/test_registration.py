"""Pins: importing the package costs neither torch nor transformers; whatever is imported first, all Auto
classes know the package's classes afterwards, and the import hook that saw to it is gone."""

import subprocess
import sys

import pytest
from interpreters import run_python

import hf_customclip

REGISTERED = """
from transformers import (AutoConfig, MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING as zero_shot,
                          MODEL_MAPPING as models, PROCESSOR_MAPPING as processors)
clip, backbone = type(AutoConfig.for_model("custom_clip")), type(AutoConfig.for_model("torchvision_backbone"))
import hf_customclip
assert clip is hf_customclip.CustomClipConfig and backbone is hf_customclip.TorchvisionBackboneConfig
assert models[clip] is zero_shot[clip] is hf_customclip.CustomClipModel
assert models[backbone] is hf_customclip.TorchvisionBackboneModel
assert processors[clip] is hf_customclip.CustomClipProcessor
import sys
assert not [finder for finder in sys.meta_path if "hf_customclip" in type(finder).__module__]
"""

ORDERS = {
    "plugin, then AutoModel": "import hf_customclip; from transformers import AutoModel",
    "AutoModel, then plugin": "from transformers import AutoModel; import hf_customclip",
    # These reach the Auto classes while other modules are half imported.
    "plugin, then trainer": "import hf_customclip; import transformers.trainer",
    "trainer, then plugin": "import transformers.trainer; import hf_customclip",
    "processors, then plugin": "import transformers.models.auto.processing_auto; import hf_customclip",
    "plugin, then tokenizers": "import hf_customclip; import transformers.models.auto.tokenization_auto",
    "plugin, then modeling_utils": "import hf_customclip; import transformers.modeling_utils",
    "plugin, then pipeline": "import hf_customclip; from transformers import pipeline",
    "plugin, then a model": "import hf_customclip; from transformers import CLIPModel, Trainer",
    "a plugin class first": "from hf_customclip import CustomClipProcessor",
}


def test_import_is_light():
    code = (
        "import sys, hf_customclip; hf_customclip.__version__; dir(hf_customclip)\n"
        "heavy = {'torch', 'transformers', 'torchvision', 'datasets', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Nothing"):
        hf_customclip.Nothing  # noqa: B018


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_any_order(order):
    done = run_python(order + REGISTERED)
    assert done.returncode == 0, done.stderr[-3000:]

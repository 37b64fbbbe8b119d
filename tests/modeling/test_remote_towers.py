"""Pins: a tower whose code came with its checkpoint is joined, saved with its code, and loaded again, by this
package and by the checkpoint's own code; never without `trust_remote_code=True`; code files never mix."""

import json
import os

import pytest
import torch
from interpreters import run_python
from tiny import tiny_model, tiny_tokenizer

from hf_customclip import CustomClipModel

CONFIGURATION = """
from transformers import PretrainedConfig

class BagConfig(PretrainedConfig):
    model_type = "bag_of_{word}"
    hidden_size: int = 24
    vocab_size: int = 128
"""
MODEL = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from .configuration_bag import BagConfig

class BagModel(PreTrainedModel):
    config_class = BagConfig
    main_input_name = "input_ids"

    def __init__(self, config):
        super().__init__(config)
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.mix = nn.Linear(config.hidden_size, config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask=None, return_dict=True, **kwargs):
        hidden = self.words(input_ids)
        mask = attention_mask[..., None].to(hidden.dtype)
        mean = (hidden * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
        return BaseModelOutput(last_hidden_state={factor} * self.mix(hidden + mean))
"""
TOKENS = torch.randint(10, 90, (2, 6), generator=torch.Generator().manual_seed(0))
IN_ANOTHER_PROCESS = """
import sys
sys.modules["hf_customclip"] = None  # cannot be imported
import torch
from transformers import AutoModel
folder, again = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
tokens = torch.tensor(%r)
print(model.get_text_features(tokens, torch.ones_like(tokens)).pooler_output[0, :4].tolist())
model.save_pretrained(again)
"""

TWO_FOLDERS = """
import sys
sys.modules["hf_customclip"] = None  # cannot be imported
import torch
from transformers import AutoModel

def head_input(name):
    model = AutoModel.from_pretrained(f"{sys.argv[1]}/{name}/joined", trust_remote_code=True).eval()
    return model.text_projection.input(torch.ones(1, 32))

one, two, again = head_input("one"), head_input("two"), head_input("one")
print("other" if torch.equal(two, 2 * one) else "mixed", "same" if torch.equal(one, again) else "mixed")
"""


def bag_tower(folder, word="words", factor=1.0):
    folder.mkdir(parents=True)
    (folder / "configuration_bag.py").write_text(CONFIGURATION.format(word=word))
    (folder / "modeling_bag.py").write_text(MODEL.format(factor=factor))
    auto = {"AutoConfig": "configuration_bag.BagConfig", "AutoModel": "modeling_bag.BagModel"}
    settings = {"model_type": f"bag_of_{word}", "hidden_size": 24, "vocab_size": 128, "auto_map": auto}
    (folder / "config.json").write_text(json.dumps(settings))
    tiny_tokenizer().save_pretrained(folder)
    return folder


def join(tmp_path, tower, name="joined", **config):
    tiny_model().vision_model.save_pretrained(tmp_path / "vision")
    model = CustomClipModel.from_vision_text_pretrained(
        tmp_path / "vision", tower, text_weights=None, text_kwargs={"trust_remote_code": True},
        projection_dim=8, **config,
    ).eval()  # fmt: skip
    model.save_pretrained(tmp_path / name)
    return model


def embeds(model):
    with torch.no_grad():
        return model.get_text_features(TOKENS, torch.ones_like(TOKENS)).pooler_output


def test_saved_and_loaded(tmp_path):
    model = join(tmp_path, bag_tower(tmp_path / "bag"))
    assert model.text_embed_dim == 24
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        CustomClipModel.from_pretrained(tmp_path / "joined", trust_remote_code=False)
    loaded = CustomClipModel.from_pretrained(tmp_path / "joined", trust_remote_code=True).eval()
    torch.testing.assert_close(embeds(loaded), embeds(model))
    loaded.save_pretrained(tmp_path / "again")
    again = CustomClipModel.from_pretrained(tmp_path / "again", trust_remote_code=True).eval()
    torch.testing.assert_close(embeds(again), embeds(model))


@pytest.mark.slow
def test_without_this_package(tmp_path):
    model = join(tmp_path, bag_tower(tmp_path / "bag"))
    folder = tmp_path / "joined"
    for number in (1, 2):
        environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / f"cache{number}")}
        again = tmp_path / f"again{number}"
        done = run_python(IN_ANOTHER_PROCESS % TOKENS.tolist(), folder, again, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(
            embeds(model)[0, :4].tolist(), abs=1e-5
        )
        folder = again


def test_two_folders_of_one_name(tmp_path):
    """Other code under the same file names and the same folder's name: each checkpoint keeps its own."""
    models = [
        join(
            tmp_path, bag_tower(tmp_path / name / "bag", factor=factor), f"{name}/joined", text_pooling="mean"
        )
        for name, factor in (("one", 1.0), ("two", -3.0))
    ]
    for name, model in zip(("one", "two"), models, strict=True):
        loaded = CustomClipModel.from_pretrained(tmp_path / name / "joined", trust_remote_code=True).eval()
        torch.testing.assert_close(embeds(loaded), embeds(model))


@pytest.mark.slow
def test_two_folders_of_one_name_with_other_code_of_the_model(tmp_path):
    """The same for this package's own files, of which the second folder's are another version: a file that the
    model's file imports."""
    for name in ("one", "two"):
        tiny_model().save_pretrained(tmp_path / name / "joined")
    heads = tmp_path / "two" / "joined" / "heads_custom_clip.py"
    changed = heads.read_text().replace("return dropped", "return 2 * dropped")
    assert changed != heads.read_text()
    heads.write_text(changed)
    done = run_python(TWO_FOLDERS, tmp_path, env=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["other", "same"]


def test_code_files_of_one_name_are_refused(tmp_path):
    tower = bag_tower(tmp_path / "bag")
    for part in ("configuration", "modeling"):
        (tower / f"{part}_bag.py").rename(tower / f"{part}_custom_clip.py")
    code = (tower / "modeling_custom_clip.py").read_text()
    (tower / "modeling_custom_clip.py").write_text(
        code.replace("configuration_bag", "configuration_custom_clip")
    )
    settings = (tower / "config.json").read_text().replace("_bag.", "_custom_clip.")
    (tower / "config.json").write_text(settings)
    with pytest.raises(ValueError, match=r"code file (modeling|configuration)_custom_clip.py.*rename it"):
        join(tmp_path, tower)

"""What is published loads anywhere, by the real client, in processes of its own.

Pinned, each against the embeddings of the model that was pushed: AutoModel, AutoProcessor and the
pipeline with the plugin; the same with trust_remote_code where the plugin cannot be imported, also after
saving and loading once more; a tag, a branch and a commit; offline from the cache; bf16 and device_map;
a private repository with a token and not without; no request for the towers; the Python of the card runs
as printed; no pickle was made. And the whole path: a data set pushed to the Hub is loaded from there,
trained on, published, loaded, and classifies.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image
from tiny import tiny_dataset, tiny_processor

from hf_customclip import CustomClipModel
from hf_customclip.hub import push_folder, render_model_card

from .conftest import WRITE
from .folders import held, save_ready
from .server import LocalHub

pytestmark = pytest.mark.slow

TEXTS = ["a large red square on white", "small blue circle drawn on a grey background"]
WITHOUT_PLUGIN = "import sys\nsys.modules['hf_customclip'] = None\n"
WITH_PLUGIN = "import hf_customclip\n"
EMBED = """
import json
import torch
from PIL import Image
from transformers import AutoModel, AutoProcessor

def embed(name, folder=None, **options):
    model = AutoModel.from_pretrained(name, **options)
    shared = {key: value for key, value in options.items() if key in SHARED}
    processor = AutoProcessor.from_pretrained(folder or name, **shared)
    inputs = processor(images=[Image.open(IMAGE)], text=TEXTS, return_tensors="pt").to(model.dtype)
    with torch.no_grad():
        return model, model(**inputs).logits_per_image[0].float().tolist()

SHARED = ("trust_remote_code", "revision", "token")
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 32), "red").save(path)
    return path


@pytest.fixture
def pushed(api: HfApi, tmp_path: Path) -> Path:
    folder = save_ready(tmp_path / "model")
    push_folder(folder, "alice/m", api=api)
    return folder


@pytest.fixture
def client(run_client: Callable[..., str], image: Path) -> Callable[..., Any]:
    """Run code with `embed`, `IMAGE` and `TEXTS` at hand; what its last line prints, as JSON."""

    def run(code: str, plugin: bool = True, **options: Any) -> Any:
        start = f"{WITH_PLUGIN if plugin else WITHOUT_PLUGIN}IMAGE = {str(image)!r}\nTEXTS = {TEXTS!r}\n"
        return json.loads(run_client(start + EMBED + code, **options).strip().splitlines()[-1])

    return run


def expected(folder: Path, image: Path) -> list[float]:
    model = CustomClipModel.from_pretrained(folder)
    inputs = tiny_processor()(images=[Image.open(image)], text=TEXTS, return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits_per_image[0].tolist()


PIPELINE = """
from transformers import pipeline
classify = pipeline("zero-shot-image-classification", model="alice/m", **OPTIONS)
answer = classify(Image.open(IMAGE), candidate_labels=TEXTS, hypothesis_template="{}")
scores = {guess["label"]: guess["score"] for guess in answer}
result = {"model": MODEL, "pipeline": [scores[text] for text in TEXTS]}
"""


def check(result: dict[str, list[float]], folder: Path, image: Path) -> None:
    logits = expected(folder, image)
    assert result["model"] == pytest.approx(logits, abs=1e-4)
    assert result["pipeline"] == pytest.approx(torch.tensor(logits).softmax(0).tolist(), abs=1e-4)
    assert abs(logits[0] - logits[1]) > 1e-2  # or the comparison would say nothing


def test_with_the_plugin(
    client: Callable[..., Any], api: HfApi, hub: LocalHub, tmp_path: Path, image: Path
) -> None:
    """The pipeline, the Python of the card as printed, and a private repository, in one process."""
    folder = save_ready(tmp_path / "model", names=("someone/vit", "someone/distilbert"))
    card = render_model_card(CustomClipModel.from_pretrained(folder).config, "alice/m")
    card.save(folder / "README.md")
    push_folder(folder, "alice/m", api=api)
    push_folder(folder, "alice/secret", api=api, private=True)
    blocks = re.findall(r"```python\n(.*?)```", str(card), re.DOTALL)
    code = (
        "_, MODEL = embed('alice/m')\nOPTIONS = {}\n"
        + PIPELINE
        + f"""
result["private"] = embed("alice/secret", token={WRITE!r})[1]
try:
    AutoModel.from_pretrained("alice/secret", token="hf_bob_write", cache_dir="elsewhere")
except OSError as error:
    assert "alice/secret is not" in str(error), error
else:
    raise AssertionError("a stranger loaded a private model")
"""
    )
    (tmp_path / "images").mkdir()
    shutil.copy(image, tmp_path / "images")
    code += "\n".join(blocks).replace("image.jpg", str(image)).replace("images/", f"{tmp_path}/images/")
    code += (
        '\nresult["shapes"] = [list(image_embeds.shape), list(text_embeds.shape)]\nprint(json.dumps(result))'
    )
    result = client(code, token=None)
    assert result.pop("shapes") == [[1, 16], [2, 16]]
    assert result.pop("private") == result["model"]
    check(result, folder, image)
    assert hub.requests["lfs_put"] == 1  # both repositories hold the same weights
    assert hub.asked == {"alice/m", "alice/secret"}  # and nobody asked for the towers


def test_without_the_plugin_and_saved_once_more(
    client: Callable[..., Any], pushed: Path, image: Path
) -> None:
    code = (
        "model, MODEL = embed('alice/m', trust_remote_code=True)\n"
        "assert 'hf_customclip.modeling' not in sys.modules\n"
        "OPTIONS = {'trust_remote_code': True}\n" + PIPELINE + "\n"
        "model.save_pretrained('again')\n"
        "AutoProcessor.from_pretrained('alice/m', trust_remote_code=True).save_pretrained('again')\n"
        "again = embed('again', trust_remote_code=True)[1]\n"
        "print(json.dumps({**result, 'again': again}))"
    )
    result = client(code, plugin=False, token=None)
    assert result.pop("again") == result["model"]
    check(result, pushed, image)


def test_revisions_offline_dtype_and_device_map(
    client: Callable[..., Any], pushed: Path, image: Path, api: HfApi, tmp_path: Path
) -> None:
    first = api.model_info("alice/m").sha
    api.create_tag("alice/m", tag="v1")
    newer = save_ready(tmp_path / "newer", seed=1)
    push_folder(newer, "alice/m", api=api)
    push_folder(newer, "alice/m", api=api, revision="dev")
    code = f"""
found = {{
    "main": embed("alice/m")[1], "tag": embed("alice/m", revision="v1")[1],
    "branch": embed("alice/m", revision="dev")[1], "commit": embed("alice/m", revision={first!r})[1],
    "mapped": embed("alice/m", device_map="cpu")[1],
}}
model, found["bf16"] = embed("alice/m", dtype=torch.bfloat16)
assert model.visual_projection.linear1.weight.dtype == torch.bfloat16
print(json.dumps(found))
"""
    found, old, new = client(code), expected(pushed, image), expected(newer, image)
    assert old != pytest.approx(new, abs=1e-2)
    for name, logits in (("main", new), ("tag", old), ("branch", new), ("commit", old), ("mapped", new)):
        assert found[name] == pytest.approx(logits, abs=1e-4), name
    assert found["bf16"] == pytest.approx(new, abs=0.5)

    hub_gone = {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    again = client("print(json.dumps([embed('alice/m')[1], embed('alice/m', revision='v1')[1]]))", **hub_gone)
    assert again[0] == pytest.approx(new, abs=1e-4) and again[1] == pytest.approx(old, abs=1e-4)


def test_from_hub_data_to_a_published_classifier(
    hub: LocalHub, client: Callable[..., Any], run_client: Callable[..., str], tmp_path: Path, image: Path
) -> None:
    data = tiny_dataset(24).train_test_split(8, shuffle=False)
    data.save_to_disk(str(tmp_path / "data"))
    save_ready(tmp_path / "start")
    train = f"""
from datasets import load_from_disk
load_from_disk({str(tmp_path / "data")!r}).push_to_hub("alice/d")
from hf_customclip import CustomClipModel, CustomClipProcessor, CustomClipTrainer, CustomClipTrainingArguments
from hf_customclip.data import load_image_text_dataset
data = load_image_text_dataset("alice/d")
args = CustomClipTrainingArguments(
    output_dir="run", per_device_train_batch_size=8, num_train_epochs=1, report_to=[], use_cpu=True,
    push_to_hub=True, hub_model_id="alice/m", logging_steps=1, eval_strategy="epoch", feature_cache="never",
)
model = CustomClipModel.from_pretrained({str(tmp_path / "start")!r})
processor = CustomClipProcessor.from_pretrained({str(tmp_path / "start")!r})
splits = {{"train_dataset": data["train"], "eval_dataset": data["test"]}}
trainer = CustomClipTrainer(model=model, args=args, processing_class=processor, **splits)
trainer.train()
trainer.push_to_hub(dataset="alice/d")
"""
    run_client(WITH_PLUGIN + train)
    files = held(hub)
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
    code = "_, MODEL = embed('alice/m')\nOPTIONS = {}\n" + PIPELINE + "print(json.dumps(result))"
    result = client(code, token=None, HF_HOME=str(tmp_path / "another_home"))
    check(result, tmp_path / "run", image)
    assert result["model"] != pytest.approx(expected(tmp_path / "start", image), abs=1e-4)


def test_the_example_publishes_and_loads(
    hub: LocalHub, run_client: Callable[..., str], tmp_path: Path
) -> None:
    folder = save_ready(tmp_path / "model")
    script = Path(__file__).parents[2] / "examples/publish.py"
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['publish.py', {str(folder)!r}, 'alice/m', 'nlphuji/flickr30k']\n"
        f"for _ in range(2): runpy.run_path({str(script)!r}, run_name='__main__')\n"
    )
    out = run_client(code)
    assert f"{hub.endpoint}/alice/m/commit/" in out and out.count("alice/m loads: ") == 2
    assert "nothing new: " in out
    assert "non-commercial research and education only" in held(hub)["README.md"].decode()
    refused = run_client(code.replace("alice/m", "alice/other"), token="hf_bob_write", check=False)
    assert refused.strip().splitlines()[-1].startswith("error: alice/other was not published: bob may not")

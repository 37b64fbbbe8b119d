"""Pins: the README's Python and Bash run as they stand, in order, in the folder of somebody who has what it speaks of:
images, a table of products, a policy. Towers come from a Hub on this machine under their real names, with random
weights. The Chinese README has the same code, comments apart."""

import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from hub.server import LocalHub
from hub.store import StoredFile, User
from interpreters import run_python
from page_blocks import READ_ONLY, blocks_of
from tiny import tiny_text_tower, tiny_vision_tower

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_user_write"
TOWERS = {
    "distilbert/distilbert-base-multilingual-cased": lambda folder: tiny_text_tower("distilbert", folder),
    "sentence-transformers/all-MiniLM-L6-v2": lambda folder: tiny_text_tower("bert", folder),
    "openai/clip-vit-base-patch32": lambda folder: tiny_vision_tower("clip", folder),
}
RESNET34 = "resnet34-b627a593.pth"  # where torchvision looks for the weights before it fetches them
SERVES = re.compile(r"^(hf-customclip demo [^#\n]*)", re.MULTILINE)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The towers of the README on a Hub of this machine, and of torchvision in its cache."""
    with LocalHub() as running:
        user = User("user", organizations=tuple(name.split("/")[0] for name in TOWERS))
        running.store.users[TOKEN] = user
        for name, make in TOWERS.items():
            folder = tmp_path / "towers" / name
            make(folder)
            running.store.create(user, "model", name, private=False)
            files = {path.name: StoredFile(path.read_bytes()) for path in folder.iterdir()}
            running.store.repos["model", name].add_commit("main", "The tower", files)
        weights = tmp_path / "torch" / "hub" / "checkpoints" / RESNET34
        weights.parent.mkdir(parents=True)
        torch.save(torchvision.models.resnet34().state_dict(), weights)
        environment = {
            "HF_ENDPOINT": running.endpoint,
            "HF_TOKEN": TOKEN,
            "HF_HOME": tmp_path / "hf",
            "HF_HUB_DISABLE_XET": "1",
        }
        for name, value in {**environment, "TORCH_HOME": tmp_path / "torch"}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield


@pytest.fixture
def shop(workplace, tmp_path):
    """A folder with what the README's commands name."""
    folder = tmp_path / "shop"
    shutil.copytree(workplace / "my-images", folder / "my-images")
    images = sorted((folder / "my-images").glob("*.webp"))
    (folder / "pics").mkdir()
    for image in images[:8]:
        shutil.copy(image, folder / "pics")
    with (folder / "products.csv").open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table)
        writer.writerow(["sku", "image", "title"])
        writer.writerows(
            [number // 2, f"my-images/{image.name}", f"product {image.stem.lower()} of the shop"]
            for number, image in enumerate(images)
        )
    shutil.copy(ROOT / "examples" / "policies" / "emoji.yaml", folder / "policy.yaml")
    shutil.copy(images[0], folder / "cat.jpg")
    return folder


@pytest.mark.slow
def test_the_readme_runs(shop, hub):
    parts = []
    for language, code in blocks_of(ROOT / "README.md"):
        if language == "python":
            parts.append(code)
        elif language == "bash":
            code = SERVES.sub(
                r"{ timeout 15 \1 || [ $? = 124 ]; } ", code
            )  # a page is served until it is stopped
            parts.append(f'subprocess.run(["bash", "-euxo", "pipefail", "-c", {code!r}], check=True)')
        else:
            assert language in READ_ONLY
    program = "\n".join(["import subprocess", *parts])
    done = run_python(program, cwd=shop, timeout=900)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_chinese_readme_has_the_same_code():
    def code(name):
        found = blocks_of(ROOT / name)
        return [(language, re.sub(r" *#.*", "", block)) for language, block in found]

    assert code("README.zh.md") == code("README.md")

"""Pins: the site that examples/browser/prepare.py writes works in transformers.js, run in Node: embeddings of texts and
of images are the model's to 1e-3, and a text query finds among the stored vectors what it finds here. Without npm's
package (`npm install --ignore-scripts` in outputs/browser does it, and the test tries to) it skips itself."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_dataset, tiny_model, tiny_processor

from hf_customclip.inference.encode import encode_images, encode_texts

pytest.importorskip("onnxruntime")
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "browser"
TEXTS = ["a large red square on white", "small blue circle"]
RUN = """
import fs from 'fs';
import { RawImage } from '@huggingface/transformers';
import { loadImageEncoder, loadTextEncoder, nearest } from './search.mjs';

const [texts, files] = JSON.parse(fs.readFileSync(0));
const embeds = await (await loadTextEncoder('./'))(texts);
const images = [];
for (const file of files) images.push(await RawImage.read(file));
const imageEmbeds = await (await loadImageEncoder('./'))(images);
const bytes = fs.readFileSync('vectors.bin');
const vectors = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
const found = embeds.map((query) => nearest(vectors, query, 3));
console.log(JSON.stringify([embeds.map((row) => [...row]), imageEmbeds.map((row) => [...row]), found]));
"""


@pytest.fixture(scope="module")
def node_modules() -> Path:
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs Node and npm")
    folder = ROOT / "outputs" / "browser"
    if not (folder / "node_modules" / "@huggingface" / "transformers").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE / "package.json", folder)
        command = ["npm", "install", "--ignore-scripts", "--no-fund", "--no-audit"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"npm could not install @huggingface/transformers: {done.stderr[-200:]}")
    return folder / "node_modules"


@pytest.mark.slow
def test_the_site_works_in_transformers_js(node_modules: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("prepare_site", EXAMPLE / "prepare.py")
    assert spec and spec.loader
    prepare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prepare)
    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    (tmp_path / "images").mkdir()
    files = [str(tmp_path / "images" / f"{number}.png") for number in range(8)]
    images = [image.crop((0, 0, 32, 32)) for image in tiny_dataset(8)["image"][:]]  # as the model takes them
    for file, image in zip(files, images, strict=True):
        image.save(file)
    site = tmp_path / "site"
    prepare.main(str(tmp_path / "trained"), str(tmp_path / "images"), str(site))

    (site / "run.mjs").write_text(RUN)
    (tmp_path / "node_modules").symlink_to(node_modules)
    sent = json.dumps([TEXTS, files])
    done = subprocess.run(
        ["node", "run.mjs"], cwd=site, input=sent, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    text_embeds, image_embeds, found = json.loads(done.stdout.splitlines()[-1])
    texts, embeds = (
        encode_texts(model, processor, TEXTS).numpy(),
        encode_images(model, processor, images).numpy(),
    )
    np.testing.assert_allclose(text_embeds, texts, atol=1e-3)
    np.testing.assert_allclose(image_embeds, embeds, atol=1e-3)
    for hits, scores in zip(found, texts @ embeds.T, strict=True):
        assert [hit["row"] for hit in hits] == np.argsort(-scores)[:3].tolist()
        np.testing.assert_allclose([hit["score"] for hit in hits], np.sort(scores)[::-1][:3], atol=1e-3)
    assert {"index.html", "images.json", "images"} <= {path.name for path in site.iterdir()}

"""Pins: the real sentence-transformers loads a model as save_pretrained, the trainer or itself saved it, and encodes
texts and images to our normalised embeddings, cut where asked; from the Hub, in a process of its own, after `import
hf_customclip` and, by trust_remote_code, where that cannot be imported; without either it says what to pass."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import HfApi
from tiny import tiny_dataset, tiny_processor

from hf_customclip import CustomClipModel
from hf_customclip.hub import push_folder
from hf_customclip.inference.encode import encode_images, encode_texts

sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6.0")

# The last one is longer than the model takes: it must be cut in the same place.
TEXTS = ["a large red square on white", "small circle", " ".join(["blue cross"] * 60)]


@pytest.mark.parametrize("saved_by", ["save_pretrained", "sentence-transformers"])
def test_encodes_to_our_embeddings(saved: Path, tmp_path: Path, saved_by: str) -> None:
    model, processor = CustomClipModel.from_pretrained(saved), tiny_processor()
    images = tiny_dataset(5)["image"][:]
    loaded = sentence_transformers.SentenceTransformer(str(saved), device="cpu")
    if saved_by == "sentence-transformers":
        loaded.save_pretrained(str(tmp_path))
        loaded = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    assert loaded.get_embedding_dimension() == 16
    texts, embedded = loaded.encode(TEXTS), loaded.encode(images)
    np.testing.assert_allclose(texts, encode_texts(model, processor, TEXTS).numpy(), atol=1e-5)
    np.testing.assert_allclose(embedded, encode_images(model, processor, images).numpy(), atol=1e-5)
    np.testing.assert_allclose(loaded.similarity(texts, embedded).numpy(), texts @ embedded.T, atol=1e-5)
    np.testing.assert_allclose(loaded.encode_query(TEXTS[0]), texts[0], atol=1e-5)


def test_cut_embeddings(saved: Path, tmp_path: Path) -> None:
    """`truncate_dim` there is the model's own, saved with it or not."""
    cut = encode_texts(
        CustomClipModel.from_pretrained(saved, truncate_dim=6), tiny_processor(), TEXTS
    ).numpy()
    assert cut.shape == (3, 6)
    CustomClipModel.from_pretrained(saved, truncate_dim=6).save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    for place, options in ((saved, {"truncate_dim": 6}), (tmp_path, {})):
        loaded = sentence_transformers.SentenceTransformer(str(place), device="cpu", **options)
        np.testing.assert_allclose(loaded.encode(TEXTS, normalize_embeddings=True), cut, atol=1e-5)


LOAD = """
import json
from sentence_transformers import SentenceTransformer
model = SentenceTransformer("alice/m", device="cpu"{options})
print(json.dumps(model.encode({texts!r}).tolist()))
"""


@pytest.mark.slow
def test_from_the_hub_in_a_fresh_process(
    run_client: Callable[..., str], api: HfApi, saved: Path, tmp_path: Path
) -> None:
    push_folder(saved, "alice/m", api=api)
    ours = encode_texts(CustomClipModel.from_pretrained(saved), tiny_processor(), TEXTS).numpy()
    plain, trusting = (LOAD.format(options=o, texts=TEXTS) for o in ("", ", trust_remote_code=True"))
    without = "import sys\nsys.modules['hf_customclip'] = None\n" + trusting
    for code in ("import hf_customclip\n" + plain, without):
        encoded = json.loads(run_client(code, token=None).splitlines()[-1])
        np.testing.assert_allclose(encoded, ours, atol=1e-5)
    assert "trust_remote_code=True" in run_client(plain, token=None, check=False)


MTEB = """
import hf_customclip, json, mteb
model = mteb.get_model("alice/m", device="cpu")
print(json.dumps([model.mteb_model_meta.modalities, model.model.encode({texts!r}).tolist()]))
"""


@pytest.mark.slow
def test_mteb_loads_it_from_the_hub(run_client: Callable[..., str], api: HfApi, saved: Path) -> None:
    pytest.importorskip("mteb", minversion="2.19")
    push_folder(saved, "alice/m", api=api)
    kinds, encoded = json.loads(run_client(MTEB.format(texts=TEXTS), token=None).splitlines()[-1])
    assert set(kinds) == {"image", "text"}
    ours = encode_texts(CustomClipModel.from_pretrained(saved), tiny_processor(), TEXTS).numpy()
    np.testing.assert_allclose(encoded, ours, atol=1e-5)

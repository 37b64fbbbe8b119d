"""Pins: the real sentence-transformers loads an exported folder and encodes texts and images as we do,
with hf_customclip imported and, by trust_remote_code, where it cannot be imported."""

import json

import numpy as np
import pytest
from interpreters import run_python
from tiny import tiny_dataset

from hf_customclip.evaluation.sentence_transformers_export import (
    add_sentence_transformers_files,
    save_for_sentence_transformers,
)
from hf_customclip.inference.encode import encode_images, encode_texts

sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6.0")

# The last one is longer than the model takes: it must be cut in the same place.
TEXTS = ["a large red square on white", "small circle", " ".join(["blue cross"] * 60)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, processor):
    return save_for_sentence_transformers(model, processor, tmp_path_factory.mktemp("exported"))


@pytest.fixture(scope="module")
def images():
    return tiny_dataset(5)["image"][:]


def test_encodes_to_our_embeddings(folder, model, processor, images):
    loaded = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    assert loaded.get_embedding_dimension() == 16
    texts, image_embeds = loaded.encode(TEXTS), loaded.encode(images)
    np.testing.assert_allclose(texts, encode_texts(model, processor, TEXTS).numpy(), atol=1e-5)
    np.testing.assert_allclose(image_embeds, encode_images(model, processor, images).numpy(), atol=1e-5)
    np.testing.assert_allclose(
        loaded.similarity(texts, image_embeds).numpy(),
        texts @ image_embeds.T,
        atol=1e-5,
        err_msg="similarity is cosine",
    )
    np.testing.assert_allclose(loaded.encode_query(TEXTS[0]), texts[0], atol=1e-5)


def test_survives_being_saved_by_sentence_transformers(folder, tmp_path):
    loaded = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    loaded.save_pretrained(str(tmp_path))
    again = sentence_transformers.SentenceTransformer(str(tmp_path), device="cpu")
    np.testing.assert_array_equal(again.encode(TEXTS), loaded.encode(TEXTS))


@pytest.mark.slow
def test_loads_where_hf_customclip_cannot_be_imported(folder, model, processor, tmp_path):
    script = f"""
import sys
sys.modules["hf_customclip"] = None
import json
from sentence_transformers import SentenceTransformer
model = SentenceTransformer({str(folder)!r}, device="cpu", trust_remote_code=True)
print(json.dumps(model.encode({TEXTS!r}).tolist()))
"""
    env = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = run_python(script, env=env)
    assert done.returncode == 0, done.stderr
    encoded = json.loads(done.stdout.splitlines()[-1])
    np.testing.assert_allclose(encoded, encode_texts(model, processor, TEXTS).numpy(), atol=1e-5)


def test_a_folder_without_a_model_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="holds no saved CustomClipModel"):
        add_sentence_transformers_files(tmp_path)

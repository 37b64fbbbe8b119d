"""Pins: the retrieval metric is pushed as a Space, whole, and `evaluate.load` takes it from there in a process
that cannot import this package."""

import json

import pytest
from huggingface_hub import HfApi

from hf_customclip.evaluation import push_retrieval_metric

from .conftest import WRITE
from .server import LocalHub

pytestmark = pytest.mark.slow


def test_pushed_and_loaded(hub: LocalHub, api: HfApi, run_client) -> None:
    url = push_retrieval_metric("alice/image_text_retrieval", token=WRITE, endpoint=hub.endpoint)
    assert "alice/image_text_retrieval" in url
    assert {"README.md", "app.py", "image_text_retrieval.py", "retrieval.py"} <= set(
        api.list_repo_files("alice/image_text_retrieval", repo_type="space")
    )
    out = run_client(
        """
import json, sys
sys.modules["hf_customclip"] = None
import evaluate
metric = evaluate.load("alice/image_text_retrieval")
vectors = [[1.0, 0.0], [0.0, 1.0]]
print(json.dumps(metric.compute(
    image_embeds=vectors, text_embeds=vectors, image_ids=["a", "b"])))
"""
    )
    assert json.loads(out.splitlines()[-1])["rsum"] == 600

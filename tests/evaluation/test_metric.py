"""Pins: the packaged metric loads by path without a network, its docstring's example is true, batches equal
one call, and the exported copy gives the same numbers in a process that cannot import hf_customclip."""

import json

import evaluate
import numpy as np
import pandas as pd
import pytest
import torch
from huggingface_hub import RepoCard
from interpreters import run_python

from hf_customclip.evaluation.metric_space import METRIC_PATH, export_retrieval_metric, push_retrieval_metric
from hf_customclip.evaluation.retrieval import retrieval_metrics


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """No file of the user's caches is touched."""
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", str(tmp_path / "metrics"))
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("evaluate.loading.HF_MODULES_CACHE", str(tmp_path / "modules"), raising=False)


@pytest.fixture
def metric():
    return evaluate.load(METRIC_PATH)


@pytest.fixture
def rows():
    """12 captions of 5 images, one row for each caption, the captions in no order."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([3, 0, 1, 4, 2, 0, 3, 3, 1, 2, 0, 3])
    images = torch.randn(5, 8, generator=generator)
    return {
        "image_embeds": images[ids],
        "text_embeds": images[ids] + 1.5 * torch.randn(12, 8, generator=generator),
        "image_ids": ids,
    }


def expected(rows):
    images, texts = (torch.nn.functional.normalize(rows[k], dim=1) for k in ("image_embeds", "text_embeds"))
    return retrieval_metrics(images, texts, rows["image_ids"], rows["image_ids"])


def test_compute_and_add_batch(metric, rows):
    want = expected(rows)
    assert 0 < want["t2i_recall@1"] < 1
    assert metric.compute(**rows) == pytest.approx(want)
    for start in (0, 5, 10):
        metric.add_batch(**{name: column[start : start + 5] for name, column in rows.items()})
    assert metric.compute() == pytest.approx(want)


@pytest.mark.parametrize("convert", [lambda x: x.numpy(), lambda x: x.tolist()], ids=["numpy", "lists"])
def test_takes_arrays_and_lists(metric, rows, convert):
    assert metric.compute(**{k: convert(v) for k, v in rows.items()}) == pytest.approx(expected(rows))


def test_text_ids_are_not_read_as_numbers(metric):
    """ "1" and "01" are two images."""
    embeds = np.eye(2, dtype="f4")
    results = metric.compute(image_embeds=embeds, text_embeds=embeds[::-1], image_ids=["1", "01"])
    assert results["i2t_mean_rank"] == 2.0


def test_the_docstrings_example_is_true(metric):
    results = metric.compute(
        image_embeds=[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]],
        text_embeds=[[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]],
        image_ids=[0, 0, 1],
    )
    # Image 1 prefers the caption (0.2, 0.8) of image 0, and that caption finds the wrong image.
    assert (results["i2t_recall@1"], round(results["t2i_recall@1"], 4)) == (0.5, 0.6667)
    assert "image_embeds" in metric.inputs_description
    assert "any number of captions" in metric.description
    assert set(metric.features[0]) == {"image_embeds", "text_embeds", "image_ids"}


@pytest.mark.slow
def test_the_exported_folder_needs_no_hf_customclip(rows, tmp_path):
    folder = export_retrieval_metric(tmp_path)
    script = f"""
import sys
sys.modules["hf_customclip"] = None
import evaluate, json
rows = json.load(sys.stdin)
print(json.dumps(evaluate.load({str(folder)!r}).compute(**rows)))
"""
    done = run_python(
        script,
        input=json.dumps({name: column.tolist() for name, column in rows.items()}),
        env={"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == pytest.approx(expected(rows))


def test_the_spaces_widget_understands_the_inputs(metric):
    """What evaluate's page does with a table that somebody typed: vectors are JSON, ids are text."""
    from evaluate.utils.gradio import infer_gradio_input_types, parse_gradio_data

    names, types = zip(*metric.features[0].items(), strict=True)
    typed = pd.DataFrame([["[1, 0]", "[1, 0]", "a"], ["[0, 1]", "[0.2, 0.8]", "b"]], columns=names)
    results = metric.compute(**parse_gradio_data(typed, infer_gradio_input_types(types)))
    assert results["rsum"] == 600


def test_the_spaces_card_is_what_the_hub_reads():
    card = RepoCard.load(f"{METRIC_PATH}/README.md", ignore_metadata_errors=False)
    assert card.data.sdk == "gradio"
    assert card.data.tags == ["evaluate", "metric"]


def test_a_space_with_another_name_would_not_load():
    with pytest.raises(ValueError, match="must be named as its script"):
        push_retrieval_metric("user/my-metric")

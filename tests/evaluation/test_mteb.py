"""Pins: the real MTEB loads a saved model through sentence-transformers without edits, and runs image-text retrieval
made of the bundled sample's test split, offline; its hit rates are our recalls to 1e-4."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_model, tiny_processor

from hf_customclip.data import load_image_text_dataset
from hf_customclip.evaluation import embed_dataset

mteb = pytest.importorskip("mteb", minversion="2.19")
pytest.importorskip("sentence_transformers", minversion="6.0")
SAMPLE = Path(__file__).parents[2] / "examples" / "sample"


@pytest.mark.slow
def test_the_sample_gives_our_recalls(tmp_path: Path) -> None:
    from hf_customclip.evaluation.mteb_tasks import load_for_mteb, mteb_retrieval_tasks

    model, processor = tiny_model(), tiny_processor()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    data = load_image_text_dataset(str(SAMPLE), split="test")
    ours = embed_dataset(model, processor, data).metrics()

    loaded = load_for_mteb(tmp_path, device="cpu")
    result = mteb.evaluate(loaded, mteb_retrieval_tasks(data, "Sample"), cache=None, show_progress_bar=False)
    theirs = {task.task_name: task.scores["test"][0] for task in result.task_results}
    assert len(set(ours.values())) > 4  # or the comparison would say little
    for way in ("i2t", "t2i"):
        for k in (1, 5, 10):
            found = theirs[f"Sample{way.upper()}Retrieval"][f"hit_rate_at_{k}"]
            assert found == pytest.approx(ours[f"{way}_recall@{k}"], abs=1e-4), (way, k)
    several = sum(len(captions) > 1 for captions in data["captions"])
    assert several and theirs["SampleI2TRetrieval"]["recall_at_10"] < ours["i2t_recall@10"]

"""`hf-customclip features extract`, and training on what it makes.

Pinned: WebDataset tars become shards of every image and caption by the command; a run whose configuration names the
shards trains on them and measures on the data's own splits; on a Ray cluster (here a local one of two workers) the
shards are the same bytes, what was begun is finished, and refusals read as ever; wrong options, streams and a missing
Ray are refused in one sentence.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny import tiny_dataset, tiny_text_tower, tiny_vision_tower

from hf_customclip.cli import main


def write_tars(folder: Path, rows: int, tars: int) -> None:
    """WebDataset, with captions in JSON members."""
    folder.mkdir()
    data = tiny_dataset(rows)
    for tar in range(tars):
        with tarfile.open(folder / f"{tar:05d}.tar", "w") as file:
            members: list[tuple[str, bytes]] = []
            for row in range(tar, rows, tars):
                buffer = io.BytesIO()
                data[row]["image"].save(buffer, "PNG")
                caption = json.dumps({"captions": data[row]["captions"]}).encode()
                members += [(f"{row:06d}.png", buffer.getvalue()), (f"{row:06d}.json", caption)]
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    tiny_dataset(24).save_to_disk(str(tmp_path / "held-out"))
    written: dict[str, Any] = {
        "model": {
            "vision": tiny_vision_tower("vit", tmp_path / "vision"),
            "text": tiny_text_tower("distilbert", tmp_path / "text"),
            "projection_dim": 16,
        },
        "data": {"source": str(tmp_path / "held-out"), "validation_fraction": 0.3, "test_fraction": 0.3},
        "training": {
            "output_dir": str(tmp_path / "out"),
            "per_device_train_batch_size": 16,
            "num_train_epochs": 1,
            "report_to": "none",
            "use_cpu": True,
        },
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(written))
    return tmp_path / "config.yaml"


def succeed(*arguments: str) -> None:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    assert not end.value.code


def test_tars_to_shards_to_a_model(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tars(tmp_path / "tars", 48, 3)
    out = str(tmp_path / "features")
    succeed("features", "extract", str(tmp_path / "tars"), out, "--config", str(config))
    assert "48 images with 96 captions in 3 shards" in " ".join(capsys.readouterr().out.split())
    succeed("train", "--config", str(config), f"training.feature_shards={out}")
    results = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert results["train_samples_per_second"] > 0 and 0 < results["test_rsum"] <= 600
    described = json.loads((tmp_path / "out" / "data.json").read_text())
    assert described["splits"]["train"] == 48


@pytest.mark.slow
def test_ray_makes_the_same_shards(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    write_tars(tmp_path / "tars", 12, 3)
    one, two = tmp_path / "one", tmp_path / "two"
    call = ["features", "extract", str(tmp_path / "tars")]
    towers = ["--config", str(config), "--precision"]
    succeed(*call, str(one), *towers, "float32")
    succeed(*call, str(two), *towers, "float32", "--process-index", "1", "--num-processes", "3")
    ray.init(num_cpus=2, include_dashboard=False)
    try:
        succeed(*call, str(two), *towers, "float32", "--ray-actors", "2")
        refused = error_of([*call, str(two), *towers, "bfloat16", "--ray-actors", "1"], capsys)
    finally:
        ray.shutdown()
    assert {p.name: p.read_bytes() for p in two.iterdir()} == {p.name: p.read_bytes() for p in one.iterdir()}
    assert "begun with other dtype" in refused and "Traceback" not in refused


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main(arguments)
    return " ".join(capsys.readouterr().err.split())


def test_wrong_calls(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["features", "extract", str(tmp_path / "held-out"), str(tmp_path / "out")]
    assert "--config" in error_of(call, capsys) and "Traceback" not in error_of(call, capsys)
    assert "'fast'" in error_of([*call, "--config", str(config), "--precision", "fast"], capsys)
    assert "--num-processes" in error_of([*call, "--config", str(config), "--process-index", "2"], capsys)
    with_ray = [*call, "--config", str(config), "--ray-actors", "2"]
    assert "--num-processes" in error_of([*with_ray, "--process-index", "0", "--num-processes", "2"], capsys)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "hf-customclip[ray]" in error_of(with_ray, capsys)
    streamed = error_of(["train", "--config", str(config), "data.streaming=true"], capsys)
    assert "features extract" in streamed and "Traceback" not in streamed

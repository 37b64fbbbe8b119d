"""Feature shards on an S3 server (moto's, which speaks the protocol on loopback).

Pinned: shards are written there and trained on from there, the same bytes as on a disk; a second extraction finds
them done; an extraction that lacks items goes on with those; so do the commands, with the usual environment variables.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_dataset, tiny_model, tiny_processor
from tiny_training import make_trainer

from hf_customclip.features.shard_dataset import FeatureShards
from hf_customclip.features.shard_extraction import extract_features
from hf_customclip.features.shard_folder import MANIFEST, ShardFolder

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")
WHERE = "s3://lake/features"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Any:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    folder = ShardFolder(WHERE)
    folder.fs.mkdir("lake")
    yield folder
    type(folder.fs).clear_instance_cache()
    server.stop()


def extract(out: str, **options: Any) -> Any:
    stream = tiny_dataset(40).to_iterable_dataset(num_shards=4)
    options = {"precision": "float32", "show_progress": False, **options}
    return extract_features(tiny_model(), tiny_processor(), stream, out, **options)


def test_shards_in_object_storage(bucket: ShardFolder, tmp_path: Path) -> None:
    assert extract(WHERE, process_index=1, num_processes=2) is None
    assert extract(WHERE) == extract(str(tmp_path))  # goes on with the other process's items
    names = {Path(name).name for name in bucket.fs.find(bucket.root)}
    assert names == {path.name for path in tmp_path.iterdir()} and MANIFEST in names
    assert all(bucket.fs.cat_file(bucket.path(name)) == (tmp_path / name).read_bytes() for name in names)
    written = {name: bucket.fs.info(bucket.path(name))["LastModified"] for name in names}
    extract(WHERE)  # nothing to do
    assert {name: bucket.fs.info(bucket.path(name))["LastModified"] for name in names} == written

    ends = []
    for address in (WHERE, str(tmp_path)):
        trainer = make_trainer(tmp_path / "out", num_train_epochs=1)
        trainer.train_dataset = FeatureShards(address)
        trainer.train()
        ends.append(torch.cat([parameter.flatten() for parameter in trainer.model.parameters()]))
    assert torch.equal(*ends)

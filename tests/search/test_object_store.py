"""Pins: an index is written to an S3 server (moto's, which speaks the protocol on loopback), searched from there,
brought up to date, and never doubled; with storage options or the usual environment variables."""

import pytest
from tiny import tiny_dataset

from hf_customclip import ImageIndex, load_model
from hf_customclip.cli import main

pytest.importorskip("lancedb")
moto_server = pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

WHERE = "s3://shop/index"


@pytest.fixture
def options():
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    options = {
        "aws_endpoint": endpoint,
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "allow_http": "true",
    }
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket="shop")
    yield options
    server.stop()


@pytest.mark.slow
def test_an_index_in_object_storage(made, saved_model, seen, options, tmp_path, monkeypatch, capsys):
    data = tiny_dataset(16).add_column("year", list(range(2000, 2016)))
    with pytest.raises(FileNotFoundError, match="There is no index in 's3://shop/index'"):
        ImageIndex.load(WHERE, *made, storage_options=options)
    ImageIndex.build(*made, data.select(range(12)), directory=WHERE, storage_options=options)
    index = ImageIndex.build(*made, data.select(range(4, 16)), directory=WHERE, storage_options=options)
    changes = index.changes
    assert (changes.added, changes.unchanged, changes.removed, seen[0]) == (4, 8, 4, 16)
    right = ImageIndex.build(*made, data.select(range(4, 16)))
    found = ImageIndex.load(WHERE, *made, storage_options=options).search("red", 20, filter="year > 2006")
    assert found == right.search("red", 20, filter="year > 2006") and len(found) == 9
    index.save(tmp_path / "here")
    assert ImageIndex.load(tmp_path / "here", *made).search("red", 20) == right.search("red", 20)

    for name, value in options.items():
        monkeypatch.setenv(name.upper(), value)
    ImageIndex.build(*load_model(saved_model), data, directory="s3://shop/named")
    with pytest.raises(SystemExit) as stopped:
        main(["search", "s3://shop/named", "red", "-k", "3"])
    assert not stopped.value.code and len(capsys.readouterr().out.splitlines()) == 3

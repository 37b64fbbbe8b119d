"""Promises pinned here, with the real client against a Hub on loopback:

- a data set of the Hub loads by its id alone, with the splits it has there, listed or streamed;
- a repository with a loading script, one that is not there, and no Hub at all are each one sentence.
"""

import os
from pathlib import Path

import pytest
from hub.server import LocalHub
from interpreters import run_python

TOKEN = "hf_alice_write"
PUSH = """
import datasets, sys
sys.path.insert(0, {here!r})
from miniatures import FLICKR, PARQUET_FEATURES, hub_rows
from huggingface_hub import HfApi

rows = datasets.Dataset.from_dict(hub_rows(FLICKR, "x"), features=PARQUET_FEATURES).remove_columns("split")
parts = {{"train": rows.select(range(3)), "val": rows.select([3]), "test": rows.select([4])}}
datasets.DatasetDict(parts).push_to_hub("alice/images")
api = HfApi()
api.create_repo("alice/flickr-script", repo_type="dataset")
for name in ("flickr-script.py", "README.md"):
    api.upload_file(
        path_or_fileobj=b"1", path_in_repo=name, repo_id="alice/flickr-script", repo_type="dataset"
    )
"""
LOAD = """
from hf_customclip.data import DataError, load_image_text_dataset, load_with_report

splits, report = load_with_report("alice/images")
print({name: list(rows["image_id"]) for name, rows in splits.items()}, report.form)
print(splits["test"][0]["captions"][0], splits["test"][0]["image"].size)
stream = load_image_text_dataset("alice/images", "validation", streaming=True)
print([(row["image_id"], row["image"].size) for row in stream])
for source in ("alice/flickr-script", "alice/nothing"):
    try:
        load_image_text_dataset(source)
    except DataError as error:
        print(error)
"""


def run(code, endpoint, home):
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1"}
    done = run_python(code, env=env, cwd=home)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_loading_from_the_hub(tmp_path):
    with LocalHub() as hub:
        hub.store.add_user(TOKEN, "alice")
        run(PUSH.format(here=str(Path(__file__).parent)), hub.endpoint, tmp_path)
        lines = run(LOAD, hub.endpoint, tmp_path).splitlines()
    assert lines[0] == "{'train': ['0', '1', '2'], 'validation': ['3'], 'test': ['4']} Hub data set"
    assert lines[1] == "Caption 0 of 1007129816.jpg , with commas . (16, 12)"
    assert lines[2] == "[('3', (16, 12))]"
    assert "alice/flickr-script is a script" in lines[3] and "umaru97/" in lines[3]
    assert "'alice/nothing'" in lines[4] and "No file or folder" in lines[4]
    assert len(lines) == 5


@pytest.mark.slow
def test_a_hub_that_does_not_answer(tmp_path):
    # The libraries still back off and try again, 500 times faster.
    code = "import time\nsleep = time.sleep\ntime.sleep = lambda seconds: sleep(seconds / 500)\n"
    code += LOAD.split("splits, report =")[0] + (
        "try:\n    load_image_text_dataset('alice/images')\nexcept DataError as error:\n    print(error)"
    )
    assert "Hub cannot be reached" in run(code, "http://127.0.0.1:9", tmp_path)

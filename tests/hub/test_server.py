"""The test Hub itself, driven by the real client, so that the tests that stand on it can be believed.

Pinned: a pushed file comes back byte for byte (regular, LFS, LFS in parts); hashes it reports are git's and
SHA-256 worked out independently here; a stale parent is refused and an answer lost after the work leaves the
work done; private and gated repos answer as the Hub does (rights to write: test_push); a data set pushed is a
data set loaded.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from .conftest import STRANGER
from .faults import Fault
from .server import LocalHub

BLOB = bytes(range(256)) * 40


def push(api: HfApi) -> str:
    api.create_repo("alice/m")
    files = {"weights.safetensors": BLOB, "sub/note.txt": b"hello\n"}
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    return api.create_commit("alice/m", operations, commit_message="first").oid


@pytest.mark.parametrize("chunk", [None, 1000])
def test_files_come_back_byte_for_byte(hub: LocalHub, api: HfApi, tmp_path: Path, chunk: int | None) -> None:
    hub.multipart_chunk = chunk
    push(api)
    folder = Path(api.snapshot_download("alice/m", local_dir=tmp_path))
    assert (folder / "weights.safetensors").read_bytes() == BLOB
    assert (folder / "sub/note.txt").read_bytes() == b"hello\n"
    assert hub.requests["lfs_put"] == (11 if chunk else 1)


def test_hashes_are_gits_and_sha256(api: HfApi, tmp_path: Path) -> None:
    push(api)
    siblings = {s.rfilename: s for s in api.model_info("alice/m", files_metadata=True).siblings or []}
    (tmp_path / "note.txt").write_bytes(b"hello\n")
    command = ["git", "hash-object", tmp_path / "note.txt"]
    blob_id = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    assert siblings["sub/note.txt"].blob_id == blob_id and siblings["sub/note.txt"].lfs is None
    lfs = siblings["weights.safetensors"].lfs
    assert lfs is not None and lfs.sha256 == hashlib.sha256(BLOB).hexdigest() and lfs.size == len(BLOB)


def test_a_stale_parent_is_refused_and_a_lost_answer_leaves_the_work(hub: LocalHub, api: HfApi) -> None:
    first, add = push(api), {"path_in_repo": "x.txt", "repo_id": "alice/m"}
    hub.faults.add(Fault("commit", "lost"))
    with pytest.raises(Exception, match=r"disconnected|closed|reset"):
        api.upload_file(path_or_fileobj=b"1", **add)
    second = api.model_info("alice/m").sha
    assert second != first and api.file_exists("alice/m", "x.txt")
    with pytest.raises(HfHubHTTPError) as error:
        api.upload_file(path_or_fileobj=b"2", parent_commit=first, **add)
    assert error.value.response.status_code == 412
    assert api.model_info("alice/m").sha == second


def test_private_and_gated(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("alice/secret", private=True)
    assert api.model_info("alice/secret").private is True
    for token in (STRANGER, False):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("alice/secret", token=token)
    push(api)
    hub.repo("alice/m").gated = True
    with pytest.raises(GatedRepoError):
        api.hf_hub_download("alice/m", "sub/note.txt", token=STRANGER, local_dir=tmp_path)


@pytest.mark.slow
def test_a_dataset_pushed_is_a_dataset_loaded(run_client: Callable[..., str]) -> None:
    out = run_client(
        "from datasets import Dataset, load_dataset\n"
        "data = Dataset.from_dict({'image_id': ['a', 'b'], 'captions': [['x', 'y'], ['NA', 'z']]})\n"
        "data.push_to_hub('alice/d')\n"
        "print(load_dataset('alice/d', split='train')[1])\n"
    )
    assert "{'image_id': 'b', 'captions': ['NA', 'z']}" in out

"""The test Hub itself, driven by the real client, so that the tests that stand on it can be believed.

Pinned: a pushed file comes back byte for byte (regular, LFS, LFS in parts); hashes it reports are git's
and SHA-256 worked out independently here; a stale parent is refused; an answer lost after the work
leaves the work done; rights, private and gated repos answer as the Hub does; a data set pushed is a data
set loaded.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from .conftest import READ, STRANGER, WRITE
from .faults import Fault
from .server import LocalHub

BLOB = bytes(range(256)) * 40


def _push(api: HfApi, name: str = "alice/m") -> str:
    api.create_repo(name, exist_ok=True)
    operations = [
        CommitOperationAdd("weights.safetensors", BLOB),
        CommitOperationAdd("sub/note.txt", b"hello\n"),
    ]
    return api.create_commit(name, operations, commit_message="first").oid


@pytest.mark.parametrize("chunk", [None, 1000])
def test_files_come_back_byte_for_byte(hub: LocalHub, api: HfApi, tmp_path: Path, chunk: int | None) -> None:
    hub.multipart_chunk = chunk
    oid = _push(api)
    folder = Path(api.snapshot_download("alice/m", local_dir=tmp_path))
    assert (folder / "weights.safetensors").read_bytes() == BLOB
    assert (folder / "sub/note.txt").read_bytes() == b"hello\n"
    assert api.model_info("alice/m").sha == oid
    assert hub.requests["lfs_put"] == (11 if chunk else 1)


def test_hashes_are_gits_and_sha256(api: HfApi, tmp_path: Path) -> None:
    _push(api)
    siblings = {s.rfilename: s for s in api.model_info("alice/m", files_metadata=True).siblings or []}
    (tmp_path / "note.txt").write_bytes(b"hello\n")
    blob_id = subprocess.run(
        ["git", "hash-object", tmp_path / "note.txt"], capture_output=True, text=True
    ).stdout
    assert siblings["sub/note.txt"].blob_id == blob_id.strip()
    assert siblings["sub/note.txt"].lfs is None
    lfs = siblings["weights.safetensors"].lfs
    assert lfs is not None and lfs.sha256 == hashlib.sha256(BLOB).hexdigest() and lfs.size == len(BLOB)


def test_tree_history_branches_and_tags(api: HfApi) -> None:
    first = _push(api)
    assert {entry.path for entry in api.list_repo_tree("alice/m")} == {
        ".gitattributes",
        "weights.safetensors",
        "sub",
    }
    api.create_tag("alice/m", tag="v1")
    api.create_branch("alice/m", branch="dev/x")
    api.upload_file(
        path_or_fileobj=b"new\n", path_in_repo="sub/note.txt", repo_id="alice/m", revision="dev/x"
    )
    assert api.model_info("alice/m", revision="v1").sha == api.model_info("alice/m").sha == first
    assert api.model_info("alice/m", revision="dev/x").sha != first
    assert [c.title for c in api.list_repo_commits("alice/m")] == ["first", "initial commit"]


def test_a_stale_parent_is_refused_and_changes_nothing(api: HfApi) -> None:
    first = _push(api)
    add = CommitOperationAdd("sub/note.txt", b"second\n")
    second = api.create_commit("alice/m", [add], commit_message="second", parent_commit=first).oid
    add = CommitOperationAdd("sub/note.txt", b"third\n")
    with pytest.raises(HfHubHTTPError) as error:
        api.create_commit("alice/m", [add], commit_message="third", parent_commit=first)
    assert error.value.response.status_code == 412
    assert api.model_info("alice/m").sha == second


def test_a_lost_answer_leaves_the_commit_there(hub: LocalHub, api: HfApi) -> None:
    before = _push(api)
    hub.faults.add(Fault("commit", "lost"))
    with pytest.raises(Exception, match=r"disconnected|closed|reset"):
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="alice/m")
    assert api.model_info("alice/m").sha != before
    assert api.file_exists("alice/m", "x.txt")


def test_wrong_bytes_are_accepted_silently(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    """The client's blind spot that a push has to cover by itself."""
    hub.faults.add(Fault("upload", "corrupt"))
    _push(api)
    assert hub.faults.hits == 1
    got = Path(api.hf_hub_download("alice/m", "weights.safetensors", local_dir=tmp_path)).read_bytes()
    assert got != BLOB and len(got) == len(BLOB)


def test_rights(hub: LocalHub, api: HfApi) -> None:
    _push(api)
    for token, status in ((READ, 403), (STRANGER, 403), ("hf_wrong", 401)):
        with pytest.raises(HfHubHTTPError) as error:
            api.upload_file(path_or_fileobj=b"x", path_in_repo="x.txt", repo_id="alice/m", token=token)
        assert error.value.response.status_code == status
    api.create_repo("acme/m")
    with pytest.raises(HfHubHTTPError, match="rights to create"):
        api.create_repo("globex/m")


def test_private_and_gated(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    api.create_repo("alice/secret", private=True)
    assert api.model_info("alice/secret").private is True
    for token in (STRANGER, False):
        with pytest.raises(RepositoryNotFoundError):
            api.model_info("alice/secret", token=token)
    _push(api)
    hub.repo("alice/m").gated = True
    assert api.model_info("alice/m", token=STRANGER).gated == "auto"
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


def test_the_clients_own_token_is_used_over_the_wire(run_client: Callable[..., str]) -> None:
    code = (
        "from huggingface_hub import whoami\n"
        "me = whoami()\n"
        "print(me['name'], me['auth']['accessToken']['role'])\n"
    )
    assert run_client(code, token=READ).split() == ["alice", "read"]
    assert run_client(code, token=WRITE).split() == ["alice", "write"]

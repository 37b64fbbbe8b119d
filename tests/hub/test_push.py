"""Publishing a folder to a real client's Hub.

Pinned: what arrives is the folder, byte for byte, in one commit; pushing again makes no commit; another
push changes only what changed and drops stale weights; other files there stay; a branch is made, a
private repository on request; no right, a read-only, wrong or missing token, a gated repository, a name
clash, a dead network and a bad name each give one line that says what to do, and change nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, close_session, constants, get_token

from hf_customclip.hub import PublishError, push_folder

from .conftest import READ, STRANGER
from .folders import held, local, save_ready
from .server import LocalHub

READING = "the token of alice may only read; make one that may write"


def test_the_folder_arrives_in_one_commit(hub: LocalHub, api: HfApi, saved: Path) -> None:
    result = push_folder(saved, "alice/m", api=api, commit_message="Epoch 3")
    assert held(hub) == local(saved)
    assert [c.title for c in hub.repo("alice/m").history()] == ["Epoch 3", "initial commit"]
    assert result.is_new_commit and result.oid == hub.repo("alice/m").branches["main"]
    assert result.commit_url == f"{hub.endpoint}/alice/m/commit/{result.oid}"


def test_pushing_twice_is_harmless(hub: LocalHub, api: HfApi, saved: Path) -> None:
    first = push_folder(saved, "alice/m", api=api)
    second = push_folder(saved, "alice/m", api=api)
    assert second.oid == first.oid and not second.is_new_commit
    assert len(hub.repo("alice/m").history()) == 2


def test_the_next_push_changes_what_changed(hub: LocalHub, api: HfApi, saved: Path, tmp_path: Path) -> None:
    push_folder(saved, "alice/m", api=api)
    api.upload_file(path_or_fileobj=b"mine", path_in_repo="NOTES.txt", repo_id="alice/m")
    for stale in ("pytorch_model.bin", "model-00001-of-00002.safetensors", "adapter_config.json"):
        api.upload_file(path_or_fileobj=b"old", path_in_repo=stale, repo_id="alice/m")
    uploads = hub.requests["lfs_put"]
    newer = save_ready(tmp_path, seed=1)
    push_folder(newer, "alice/m", api=api)
    assert held(hub) == {**local(newer), "NOTES.txt": b"mine"}
    assert hub.requests["lfs_put"] == uploads + 1
    assert local(saved)["model.safetensors"] != local(newer)["model.safetensors"]


def test_from_shards_to_one_file_and_back(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    whole = save_ready(tmp_path / "whole")
    shards = save_ready(tmp_path / "shards", seed=1, max_shard_size="60KB")
    for folder in (whole, shards, whole):
        push_folder(folder, "alice/m", api=api)
        assert held(hub) == local(folder)


def test_branch_and_private_are_made(hub: LocalHub, api: HfApi, saved: Path) -> None:
    push_folder(saved, "alice/m", api=api, revision="dev/a", private=True)
    assert hub.repo("alice/m").private
    assert held(hub, revision="dev/a") == local(saved) and held(hub) == {}
    push_folder(saved, "alice/m", api=api, revision="other")
    assert held(hub, revision="other") == local(saved) and held(hub) == {}


def test_a_bare_name_is_the_users_own_and_an_organization_is_pushed_to(api: HfApi, saved: Path) -> None:
    assert push_folder(saved, "m", api=api).repo_id == "alice/m"
    assert push_folder(saved, "acme/m", api=api).is_new_commit


def refused(hub: LocalHub, api: HfApi, folder: Path, token: str | None = None, **options: Any) -> str:
    """The message of a push that must fail in one line and leave the Hub as it was."""
    api = HfApi(endpoint=api.endpoint, token=token or api.token)
    before = {key: dict(repo.branches) for key, repo in hub.store.repos.items()}
    with pytest.raises(PublishError) as error:
        push_folder(folder, api=api, **{"repo_id": "alice/m", **options})
    assert {key: dict(repo.branches) for key, repo in hub.store.repos.items()} == before
    message = str(error.value)
    assert "\n" not in message and message.endswith("."), message
    return message


def test_no_right_to_write(hub: LocalHub, api: HfApi, saved: Path) -> None:
    push_folder(saved, "alice/m", api=api)
    hub.repo("alice/m").resolve("main").files.pop("README.md")
    assert "bob may not write under alice; push to bob/m" in refused(hub, api, saved, STRANGER)
    api.create_repo("alice/secret", private=True)
    assert "push to bob/secret" in refused(hub, api, saved, STRANGER, repo_id="alice/secret")


def clash(api: HfApi) -> None:
    api.create_repo("alice/m")
    api.upload_file(path_or_fileobj=b'{"model_type": "bert"}', path_in_repo="config.json", repo_id="alice/m")


def tagged(api: HfApi) -> None:
    api.create_repo("alice/m")
    api.create_tag("alice/m", tag="v1")


# What is there before, who pushes where and how, and what the answer is.
REFUSALS: dict[str, tuple[Callable[[HfApi], object], dict[str, Any], str]] = {
    "no right to create": (
        lambda api: None,
        {"repo_id": "globex/m"},
        "alice may not write under globex; push to alice/m, or ask globex for write access",
    ),
    "a reading token": (lambda api: None, {"token": READ}, READING),
    "a reading token, where there is one": (lambda api: api.create_repo("alice/m"), {"token": READ}, READING),
    "a wrong token": (lambda api: None, {"token": "hf_wrong"}, "did not accept the token"),
    "a name clash": (clash, {}, "the name is taken by a model of type 'bert'"),
    "private asked of a public one": (
        lambda api: api.create_repo("alice/m"), {"private": True}, "it exists already and is public"
    ),
    "a tag is no branch": (tagged, {"revision": "v1"}, "name a branch, not a tag"),
    "a bad name": (lambda api: None, {"repo_id": "alice/m/x"}, "use user/name or organization/name"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_told_apart(hub: LocalHub, api: HfApi, saved: Path, name: str) -> None:
    prepare, options, message = REFUSALS[name]
    prepare(api)
    assert message in refused(hub, api, saved, **options)


@pytest.mark.skipif(get_token() is not None, reason="this machine has a token of its own")
def test_no_token(hub: LocalHub, api: HfApi, saved: Path) -> None:
    assert "no token was found; run `hf auth login`" in refused(hub, HfApi(endpoint=hub.endpoint), saved)


def test_a_gated_repository(hub: LocalHub, api: HfApi, saved: Path) -> None:
    api.create_repo("alice/m")
    hub.repo("alice/m").gated = True
    message = refused(hub, api, saved, STRANGER)
    assert f"it is gated and this account has no access; ask for it at {hub.endpoint}/alice/m" in message
    assert push_folder(saved, "alice/m", api=api).is_new_commit  # its owner may


@pytest.mark.usefixtures("short_waits")
def test_a_dead_network(hub: LocalHub, api: HfApi, saved: Path) -> None:
    message = refused(hub, HfApi(endpoint="http://127.0.0.1:9", token="hf_x"), saved)
    assert re.search(r"http://127.0.0.1:9 could not be reached .*check the connection", message)


def test_offline_mode(hub: LocalHub, api: HfApi, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    assert "offline mode is on; unset HF_HUB_OFFLINE" in refused(hub, api, saved)


def test_an_unready_folder_sends_nothing(hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    folder = save_ready(tmp_path)
    (folder / "model.safetensors").unlink()
    assert "is not ready to publish" in refused(hub, api, folder)
    assert not hub.requests

"""Faults at every stage of a push, and what is published after them; prints a table of stage x fault -> outcome.

Pinned: whatever goes wrong, either the push succeeds and the branch holds the new model whole, or it fails
with one line and the branch holds the previous model whole; a mixture is never seen, but where the server
stores other bytes than it was sent, and then the line names the file. What passes by itself is got over; what
does not is an error. Afterwards the same push succeeds, and the previous revision is what it was. Where
nothing was published before, a failed push leaves nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from hf_customclip.hub import PublishError, push_folder

from .faults import Fault
from .folders import held, local, save_ready
from .server import LocalHub
from .store import HubStore

PASSING = ("500", "429", "drop", "lost")
REFUSING = ("401", "403")
CONFLICTS = ("409", "412")
BEFORE_COMMIT = ("info", "validate", "preupload", "batch", "upload", "complete")

PUBLISHED, KEPT, NOTHING = "published, whole", "error, previous whole", "error, nothing there"
UNVERIFIED = "error, published whole, not verified"
DIFFERING = "error that names the file which differs"


def scenarios() -> list[tuple[Fault, str]]:
    """Each fault with the outcome it must have; where a repository is created, nothing was there before."""
    cases = [(Fault("create", kind), PUBLISHED) for kind in PASSING]
    cases += [(Fault("create", kind), NOTHING) for kind in REFUSING]
    for stage in (*BEFORE_COMMIT, "commit"):
        cases += [(Fault(stage, kind), PUBLISHED) for kind in PASSING]
        cases += [(Fault(stage, kind), KEPT) for kind in REFUSING]
        cases += [(Fault(stage, kind, times=-1), KEPT) for kind in ("500", "drop", "401")]
    cases += [(Fault("commit", kind), PUBLISHED) for kind in CONFLICTS]
    cases += [(Fault("commit", kind, times=-1), KEPT) for kind in CONFLICTS]
    cases += [(Fault("info", "truncate"), PUBLISHED), (Fault("commit", "lost", times=-1), PUBLISHED)]
    # Bytes damaged on the way: an LFS object must match its name; of small files the checksums tell.
    for kind in ("truncate", "corrupt"):
        cases += [(Fault("upload", kind), KEPT), (Fault("commit", kind), DIFFERING)]
    cases += [(Fault("tree", kind), PUBLISHED) for kind in (*PASSING, "truncate")]
    cases += [(Fault("tree", kind), UNVERIFIED) for kind in REFUSING]
    cases += [(Fault("tree", kind, times=-1), UNVERIFIED) for kind in ("500", "drop")]
    return cases


def name(fault: Fault) -> str:
    stage = "verify" if fault.stage == "tree" else fault.stage
    return f"{stage} | {fault.kind} {'once' if fault.times > 0 else 'always'}"


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_ready(tmp_path_factory.mktemp("new"), seed=1)
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nBetter than before.\n")
    return folder


@pytest.fixture(scope="module")
def kept() -> HubStore:
    return HubStore()


@pytest.fixture
def published(hub: LocalHub, api: HfApi, saved: Path, kept: HubStore) -> HubStore:
    """A Hub that holds the old model; pushed once for all tests, then copied."""
    if not kept.repos:
        push_folder(saved, "alice/m", api=api)
        kept.repos, kept.lfs = copy.deepcopy(hub.store.repos), dict(hub.store.lfs)
        hub.faults.clear()
    hub.store.repos, hub.store.lfs = copy.deepcopy(kept.repos), dict(kept.lfs)
    return kept


def outcome(hub: LocalHub, api: HfApi, old: dict[str, bytes], new: Path) -> str:
    try:
        push_folder(new, "alice/m", api=api)
    except PublishError as error:
        message = str(error)
        if not hub.store.repos:
            return NOTHING
        assert ("\n" not in message and "push" in message.lower()) or "token" in message, message
        if held(hub) == old:
            return KEPT
        if held(hub) == local(new):
            assert "could not be verified" in message, message
            return UNVERIFIED
        wrong = [name for name, content in local(new).items() if held(hub).get(name) != content]
        assert message.startswith(f"{', '.join(wrong)} arrived in alice/m with other bytes"), message
        return DIFFERING
    assert held(hub) == local(new), "reported as published, but it is not there"
    return PUBLISHED


@pytest.mark.slow
@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    ("fault", "expected"), scenarios(), ids=lambda v: name(v) if isinstance(v, Fault) else ""
)
def test_no_fault_half_publishes(
    hub: LocalHub,
    api: HfApi,
    published: HubStore,
    saved: Path,
    new: Path,
    fault: Fault,
    expected: str,
    record_property: Callable[[str, object], None],
) -> None:
    hub.multipart_chunk = 20_000 if fault.stage == "complete" else None
    if fault.stage == "create":
        hub.store.repos, hub.store.lfs = {}, {}
    before = hub.repo("alice/m").branches["main"] if hub.store.repos else None
    hub.faults.add(copy.copy(fault))
    seen = outcome(hub, api, local(saved), new)
    record_property("push", f"{name(fault)} | {seen}")
    assert hub.faults.hits, "the fault never struck"
    assert seen == expected
    if before:
        assert held(hub, revision=before) == local(saved), "the previous revision was touched"

    hub.faults.clear()
    push_folder(new, "alice/m", api=api)
    assert held(hub) == local(new)


@pytest.mark.usefixtures("short_waits")
def test_another_commit_in_between_is_not_mixed_in(hub: LocalHub, api: HfApi, saved: Path, new: Path) -> None:
    """Commits land after this push looked: its first try is refused (412), the next one is complete."""
    push_folder(saved, "alice/m", api=api)
    original = api.create_commit
    others = [CommitOperationAdd(name, b"other") for name in ("config.json", "NOTES.txt")]

    def racing(*args: Any, **kwargs: Any) -> Any:
        while others:
            original("alice/m", [others.pop()], commit_message="other")
        return original(*args, **kwargs)

    api.create_commit = racing  # type: ignore[method-assign]
    push_folder(new, "alice/m", api=api)
    assert held(hub) == {**local(new), "NOTES.txt": b"other"}
    titles = [commit.title for commit in hub.repo("alice/m").history()]
    assert titles[:3] == ["Upload CustomClipModel", "other", "other"]


@pytest.mark.usefixtures("short_waits")
def test_an_answer_lost_for_good_is_called_unknown(hub: LocalHub, api: HfApi, new: Path) -> None:
    hub.faults.add(Fault("commit", "lost"))
    hub.faults.add(Fault("info", "drop", times=-1, after="validate"))
    with pytest.raises(PublishError, match=r"alice/m may not be published: .* could not be reached"):
        push_folder(new, "alice/m", api=api)
    assert held(hub) == local(new)
    hub.faults.clear()
    assert not push_folder(new, "alice/m", api=api).is_new_commit

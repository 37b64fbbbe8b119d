"""Faults at every stage of a push, and what is published after them; prints a table of stage x fault ->
outcome.

Pinned: whatever goes wrong, either the push succeeds and the branch holds the new model whole, or it
fails with one line and the branch holds the previous model whole; a mixture is never seen. What passes
by itself is got over; what does not is an error. Afterwards the same push succeeds, and the previous
revision is what it was. Where nothing was published before, a failed push leaves nothing.
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
from .folders import save_ready
from .server import LocalHub
from .store import HubStore
from .test_push import held, local

PASSING = ("500", "429", "drop", "lost")
REFUSING = ("401", "403")
CONFLICTS = ("409", "412")
BEFORE_COMMIT = ("info", "validate", "preupload", "batch", "upload", "complete")
READ_BACK = ("info", "download")

PUBLISHED, KEPT, UNCONFIRMED = (
    "published, whole",
    "error, previous whole",
    "error, published whole, not confirmed",
)


def scenarios() -> list[tuple[Fault, str]]:
    """Each fault with the outcome it must have."""
    cases = []
    for stage in (*BEFORE_COMMIT, "commit"):
        cases += [(Fault(stage, kind), PUBLISHED) for kind in PASSING]
        cases += [(Fault(stage, kind), KEPT) for kind in REFUSING]
        cases += [(Fault(stage, kind, times=-1), KEPT) for kind in ("500", "drop", "401")]
    cases += [(Fault("commit", kind), PUBLISHED) for kind in CONFLICTS]
    cases += [(Fault("commit", kind, times=-1), KEPT) for kind in CONFLICTS]
    cases += [(Fault("info", "truncate"), PUBLISHED), (Fault("commit", "lost", times=-1), PUBLISHED)]
    # The server stores other bytes than were sent and says all is well.
    cases += [
        (Fault(stage, kind), KEPT) for stage in ("upload", "commit") for kind in ("truncate", "corrupt")
    ]
    for stage in READ_BACK:
        cases += [(Fault(stage, kind, after="commit"), PUBLISHED) for kind in (*PASSING, "truncate")]
        cases += [(Fault(stage, kind, after="commit"), UNCONFIRMED) for kind in REFUSING]
        cases += [(Fault(stage, kind, times=-1, after="commit"), UNCONFIRMED) for kind in ("500", "drop")]
    cases += [(Fault("download", "corrupt", after="commit"), PUBLISHED)]
    cases += [(Fault("download", "corrupt", times=2, after="commit"), KEPT)]
    # Whatever is fetched comes damaged, the previous files too: nothing is undone by guess.
    cases += [(Fault("download", "corrupt", times=-1, after="commit"), UNCONFIRMED)]
    return cases


def name(fault: Fault) -> str:
    stage = f"read back: {fault.stage}" if fault.after else fault.stage
    return f"{stage} | {fault.kind} {({-1: 'always', 1: 'once', 2: 'twice'})[fault.times]}"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_ready(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_ready(tmp_path_factory.mktemp("new"), seed=1)
    (folder / "README.md").write_text((folder / "README.md").read_text() + "\nBetter than before.\n")
    return folder


@pytest.fixture(scope="module")
def kept() -> HubStore:
    return HubStore()


@pytest.fixture
def published(hub: LocalHub, api: HfApi, old: Path, kept: HubStore) -> HubStore:
    """A Hub that holds the old model; pushed once for all tests, then copied."""
    if not kept.repos:
        push_folder(old, "alice/m", api=api)
        kept.repos, kept.lfs = copy.deepcopy(hub.store.repos), dict(hub.store.lfs)
        hub.faults.clear()
    hub.store.repos, hub.store.lfs = copy.deepcopy(kept.repos), dict(kept.lfs)
    return kept


def outcome(hub: LocalHub, api: HfApi, old: dict[str, bytes], new: Path) -> str:
    try:
        push_folder(new, "alice/m", api=api)
    except PublishError as error:
        message = str(error)
        assert ("\n" not in message and "push" in message.lower()) or "token" in message, message
        if held(hub) == old:
            return KEPT
        assert held(hub) == local(new), f"half-published: {message}"
        assert "could not be read back" in message or "undoing that failed" in message, message
        return UNCONFIRMED
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
    old: Path,
    new: Path,
    fault: Fault,
    expected: str,
    record_property: Callable[[str, object], None],
) -> None:
    hub.multipart_chunk = 20_000 if fault.stage == "complete" else None
    before = hub.repo("alice/m").branches["main"]
    hub.faults.add(copy.copy(fault))
    seen = outcome(hub, api, local(old), new)
    record_property("push", f"{name(fault)} | {seen}")
    assert hub.faults.hits, "the fault never struck"
    assert seen == expected
    assert held(hub, revision=before) == local(old), "the previous revision was touched"

    hub.faults.clear()
    if seen == KEPT:
        hub.store.lfs = dict(published.lfs)  # the Hub got rid of what it had damaged
    push_folder(new, "alice/m", api=api)
    assert held(hub) == local(new)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("kind", [*PASSING, *REFUSING, "409"])
def test_a_first_push_and_its_create(
    hub: LocalHub, api: HfApi, new: Path, kind: str, record_property: Callable[[str, object], None]
) -> None:
    hub.faults.add(Fault("create", kind))
    expected = PUBLISHED if kind not in REFUSING and kind != "409" else "error, nothing there"
    try:
        push_folder(new, "alice/m", api=api)
        seen = PUBLISHED if held(hub) == local(new) else "half"
    except PublishError:
        seen = "error, nothing there" if not hub.store.repos else "half"
    record_property("push", f"create | {kind} once | {seen}")
    assert hub.faults.hits and seen == expected
    push_folder(new, "alice/m", api=api)
    assert held(hub) == local(new)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("stage", ["upload", "commit"])
def test_a_damaged_first_push_leaves_nothing(hub: LocalHub, api: HfApi, new: Path, stage: str) -> None:
    hub.faults.add(Fault(stage, "corrupt"))
    with pytest.raises(PublishError, match="it was put back to what it held before"):
        push_folder(new, "alice/m", api=api)
    assert held(hub) == {}


@pytest.mark.usefixtures("short_waits")
def test_an_undo_that_fails_says_where_the_previous_model_is(
    hub: LocalHub, api: HfApi, old: Path, new: Path
) -> None:
    before = push_folder(old, "alice/m", api=api).oid
    hub.faults.clear()
    hub.faults.add(Fault("upload", "corrupt"))
    hub.faults.add(Fault("commit", "403", times=-1, after="commit"))
    with pytest.raises(PublishError, match=f"undoing that failed .* what it held before is commit {before}"):
        push_folder(new, "alice/m", api=api)
    assert held(hub, revision=before) == local(old)


@pytest.mark.usefixtures("short_waits")
def test_another_commit_in_between_is_not_mixed_in(hub: LocalHub, api: HfApi, old: Path, new: Path) -> None:
    """Commits land after this push looked: its first try is refused (412), the next one is complete."""
    push_folder(old, "alice/m", api=api)
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

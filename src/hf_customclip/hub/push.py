"""Publish a finished model folder: one atomic commit whose checksums are compared, harmless to repeat."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelInfo
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from .._files import read_json, write_text
from .check_folder import check_folder, published_files
from .errors import CLIENT_ERRORS, CONFLICT_STATUS, PublishError, explain, first_line, is_transient, status_of

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Seconds between tries of a request the client does not retry by itself, as it waits for those it does.
WAITS = (1.0, 2.0, 4.0, 8.0)
# Left of an earlier push, these would be loaded beside, or instead of, the new weights.
WEIGHTS = (
    ".safetensors", ".safetensors.index.json", "adapter_config.json", ".bin", ".bin.index.json", ".pt", ".pth",
)  # fmt: skip


@dataclass(frozen=True)
class PushResult:
    """What is published now: the repository, the commit that holds it, and whether this push made that one."""

    repo_id: str
    oid: str
    commit_url: str
    is_new_commit: bool


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload CustomClipModel",
    checkpoint: str | None = None,
    api: HfApi | None = None,
) -> PushResult:
    """Publish the model in `folder` as `repo_id` ("user/name"), creating the repository where there is none.

    The folder is checked first (`check_folder`) and gets a `handler.py` for Inference Endpoints. It is sent as
    one commit on top of the one that was looked at, and the checksums that the Hub then lists are compared with
    the files. Pickles and training leftovers are not sent; weights of an earlier push that the folder no longer
    has are deleted; other files there stay. A second push of the same folder compares and makes no commit.

    Args:
        private: visibility of a repository that is created here; True for an existing public one is an error.
        revision: branch to publish on, created from the default one where missing.
        checkpoint: a folder in `folder` that is published with it, under its name and with nothing else in it.
        api: client to use, with its endpoint and token; default `HfApi()`.

    Raises:
        PublishError: one line that says what was wrong and what to do.
    """
    folder, api = Path(folder), api or HfApi()
    check_folder(folder)
    add_serving_files(folder)
    names = published_files(folder)
    if checkpoint:
        own = (path for path in (folder / checkpoint).rglob("*") if path.is_file())
        names += [path.relative_to(folder).as_posix() for path in own]
    before = prepare_repo(repo_id, private=private, revision=revision, api=api)
    repo_id = before.id

    def commit() -> str:
        # The client leaves out unchanged files, and the commit where nothing is left. So trying again after a
        # failure makes no second commit if the first one was made and only its answer was lost.
        info = api.model_info(repo_id, revision=revision)
        return api.create_commit(
            repo_id,
            _operations(info, folder, names, checkpoint),
            commit_message=commit_message,
            parent_commit=info.sha,  # lets no other commit slip in between
            revision=revision,
        ).oid

    with _explained(api, repo_id, sent=True):
        oid = retried(commit, also=CONFLICT_STATUS)
    _compare_checksums(api, repo_id, oid, folder, names)
    return PushResult(repo_id, oid, f"{api.endpoint}/{repo_id}/commit/{oid}", is_new_commit=oid != before.sha)


def add_serving_files(folder: Path) -> None:
    """Add the handler for Inference Endpoints, and what it needs installed, unless the folder has a handler."""
    if (folder / "handler.py").exists():
        return
    shutil.copyfile(Path(__file__).with_name("handler.py"), folder / "handler.py")
    towers = (read_json(folder / "config.json") or {}).get("vision_config", {})
    needed = ["transformers>=5.17,<6", "torchvision", "pillow"]
    needed += ["timm"] if towers.get("model_type") == "timm_wrapper" else []
    write_text(folder / "requirements.txt", "\n".join(needed) + "\n")


def prepare_repo(
    repo_id: str, *, private: bool | None = None, revision: str | None = None, api: HfApi
) -> ModelInfo:
    """What the repository holds on the branch `revision`; either is created where missing and allowed.

    Raises:
        PublishError: a model cannot be published there.
    """
    with _explained(api, repo_id):
        if "/" not in repo_id:  # what the Hub means by it: the user's own namespace
            repo_id = f"{retried(api.whoami)['name']}/{repo_id}"
        try:
            info = retried(lambda: api.model_info(repo_id, revision=revision))
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            if isinstance(error, RepositoryNotFoundError):
                retried(lambda: api.create_repo(repo_id, private=private, exist_ok=True))
            if revision is not None:
                retried(lambda: api.create_branch(repo_id, branch=revision, exist_ok=True))
            info = retried(lambda: api.model_info(repo_id, revision=revision))
    if private and not info.private:
        raise PublishError(
            f"{repo_id} was not published: it exists already and is public; make it private in its settings, "
            "choose another name, or leave out private."
        )
    kind = (info.config or {}).get("model_type", "custom_clip")
    if kind != "custom_clip":
        raise PublishError(
            f"{repo_id} was not published: the name is taken by a model of type {kind!r}; choose another name, "
            "or delete that repository first."
        )
    return info


def _operations(
    info: ModelInfo, folder: Path, names: Sequence[str], checkpoint: str | None
) -> list[CommitOperationAdd | CommitOperationDelete]:
    """What gives the repository, as `info` lists it, the files `names` and no others of the model's."""
    others = sorted({sibling.rfilename for sibling in info.siblings or ()} - set(names))
    stale = [name for name in others if "/" not in name and name.endswith(WEIGHTS)]
    stale += [name for name in others if checkpoint and name.startswith(f"{checkpoint}/")]
    return [
        *(CommitOperationAdd(name, folder / name) for name in names),
        *(CommitOperationDelete(name) for name in stale),
    ]


def _compare_checksums(api: HfApi, repo_id: str, oid: str, folder: Path, names: Sequence[str]) -> None:
    """Compare what commit `oid` holds with the folder, by the client's own verification."""
    try:
        found = retried(lambda: api.verify_repo_checksums(repo_id, revision=oid, local_dir=folder))
    except CLIENT_ERRORS as error:
        reason = str(explain(error, api, repo_id)).partition(": ")[2]
        raise PublishError(
            f"{repo_id} was published as commit {oid[:7]} but could not be verified: {reason} "
            "Pushing again verifies it and sends nothing that is there."
        ) from error
    differing = {mismatch["path"] for mismatch in found.mismatches} | set(found.extra_paths)
    if wrong := sorted(differing & set(names)):
        raise PublishError(
            f"{', '.join(wrong)} arrived in {repo_id} with other bytes than were sent; push again, "
            "which replaces what differs."
        )


@contextmanager
def _explained(api: HfApi, repo_id: str, sent: bool = False) -> Iterator[None]:
    """Turn what the client raises into a `PublishError`; `sent`: a commit may be there all the same."""
    try:
        yield
    except PublishError:
        raise
    except CLIENT_ERRORS as error:
        raise explain(error, api, repo_id, sent) from error


def retried(request: Callable[[], T], also: Sequence[int] = ()) -> T:
    """Result of `request`, tried again after each of `WAITS` seconds while what goes wrong may pass.

    Args:
        also: further HTTP statuses of failures to try again after.
    """
    for wait in WAITS:
        try:
            return request()
        except CLIENT_ERRORS as error:
            if not is_transient(error) and status_of(error) not in also:
                raise
            _pause(wait, error)
    return request()


def _pause(seconds: float, error: BaseException) -> None:
    """Wait, at least as long as the Hub asked for (up to a minute)."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    seconds = max(seconds, min(float(asked), 60.0)) if asked.isdigit() else seconds
    logger.info("The Hub did not answer as it should (%s); trying again in %g s.", first_line(error), seconds)
    time.sleep(seconds)

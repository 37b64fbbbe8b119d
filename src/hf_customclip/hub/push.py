"""Publish a finished model folder: one atomic commit, read back and compared, harmless to repeat."""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from .check_folder import check_folder
from .errors import (
    CLIENT_ERRORS,
    CONFLICT_STATUS,
    PublishError,
    explain,
    first_line,
    is_transient,
    status_of,
)
from .remote import FileHashes, RemoteState, read_file, read_state, serves_the_same

logger = logging.getLogger(__name__)
T = TypeVar("T")

# Seconds between tries of a request the client does not retry by itself, as it waits for those it does.
WAITS = (1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class PushResult:
    """What is published now: the commit, whether this push made it, and the files with their hashes."""

    repo_id: str
    oid: str
    is_new_commit: bool
    commit_url: str
    files: dict[str, FileHashes] = field(repr=False)


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload CustomClipModel",
    extra_files: Mapping[str, Path] | None = None,
    api: HfApi | None = None,
) -> PushResult:
    """Publish the model in `folder` as `repo_id` ("user/name"), creating the repository where there is none.

    The folder is checked first (`hub.checks`), sent as one commit on top of the one that was looked at, and
    read back: listed hashes of every file, and the served bytes (whole up to 64 MiB, beyond that the length
    and 16 blocks of 1 MiB). What fails the comparison is undone. Pickles and training leftovers are not sent;
    weights of an earlier push that the folder no longer has are deleted; other files there stay. A second
    push of the same folder compares and makes no commit.

    Args:
        private: visibility of a repository that is created here; True for an existing public one is an error.
        revision: branch to publish on, created from the default one where missing.
        extra_files: further files of the same commit, by "folder/name" there; what such a folder held before
            and is not among them is deleted.
        api: client to use, with its endpoint and token; default `HfApi()`.

    Raises:
        PublishError: one line that says what was wrong and what to do.
    """
    folder = Path(folder)
    paths = {name: folder / name for name in check_folder(folder)} | dict(extra_files or {})
    files = {name: FileHashes.of(path) for name, path in paths.items()}
    mirrored = frozenset(name.split("/")[0] for name in extra_files or ())
    push = Push(api or HfApi(), repo_id, revision, token, paths, mirrored)
    try:
        before = push.prepare(private)
        is_new, oid = push.make_current(files, commit_message, before)
    except PublishError:
        raise
    except CLIENT_ERRORS as error:
        raise explain(error, push.api, push.repo_id, token) from error
    push.read_back(files, before, oid, is_new)
    return PushResult(push.repo_id, oid, is_new, f"{push.api.endpoint}/{push.repo_id}/commit/{oid}", files)


@dataclass
class Push:
    """One push, step by step: the client, where to, and what. `push_folder` is the way to use it.

    Args:
        paths: local files by their names there.
        mirrored: folders there that are to hold nothing else.
    """

    api: HfApi
    repo_id: str
    revision: str | None
    token: str | bool | None
    paths: dict[str, Path] = field(default_factory=dict)
    mirrored: frozenset[str] = frozenset()

    def state(self, commit: str | None = None) -> RemoteState:
        return retried(lambda: read_state(self.api, self.repo_id, commit or self.revision, self.token))

    def prepare(self, private: bool | None) -> RemoteState:
        """The repository and the branch as they are, created where missing and allowed."""
        if "/" not in self.repo_id:  # what the Hub means by it: the user's own namespace
            self.repo_id = f"{retried(lambda: self.api.whoami(token=self.token))['name']}/{self.repo_id}"
        try:
            state = self.state()
        except RevisionNotFoundError:
            retried(self._create_branch)
            state = self.state()
        except RepositoryNotFoundError:
            return self._create(private)
        if private and not state.private:
            raise PublishError(
                f"{self.repo_id} was not published: it exists already and is public; make it private in its "
                "settings, choose another name, or leave out private."
            )
        self._refuse_other_models(state)
        return state

    def _create(self, private: bool | None) -> RemoteState:
        taken = False
        try:
            retried(lambda: self.api.create_repo(self.repo_id, private=private, token=self.token))
        except CLIENT_ERRORS as error:
            # Also what a repeated request gets when the first one's answer was lost.
            taken = status_of(error) == 409
            if not taken:
                raise
        try:
            if self.revision is not None:
                retried(self._create_branch)
            return self.state()
        except RepositoryNotFoundError as error:
            if not taken:
                raise
            raise PublishError(
                f"{self.repo_id} was not published: the name is taken by what this account cannot see; "
                "choose another name."
            ) from error

    def _create_branch(self) -> None:
        assert self.revision is not None
        self.api.create_branch(self.repo_id, branch=self.revision, exist_ok=True, token=self.token)

    def _refuse_other_models(self, state: RemoteState) -> None:
        """A name clash: the repository holds a model of another kind, which a push would bury."""
        if "config.json" not in state.files:
            return
        kind = retried(lambda: self._model_type(state.sha))
        if kind not in (None, "custom_clip"):
            raise PublishError(
                f"{self.repo_id} was not published: the name is taken by a model of type {kind!r}; choose "
                "another name, or delete that repository first."
            )

    def _model_type(self, sha: str) -> str | None:
        config = read_file(self.api, self.repo_id, sha, "config.json", self.token)
        try:
            return str(json.loads(config)["model_type"])
        except (ValueError, KeyError, TypeError):
            return None

    def make_current(
        self, files: dict[str, FileHashes], message: str, state: RemoteState
    ) -> tuple[bool, str]:
        """Commit what differs: whether a commit was made, and the id of the commit that holds the files.

        The client sends a commit once. Looking again after a failure tells a commit that was made, though its
        answer was lost, from one that was not; `parent_commit` lets no other commit slip in between.
        """
        made, waits = False, iter(WAITS)
        while any(changes := state.changes_to(files, self.mirrored)):
            try:
                return True, self._commit(self.paths, *changes, message, state.sha)
            except CLIENT_ERRORS as error:
                if not (is_transient(error) or status_of(error) in CONFLICT_STATUS):
                    raise
                wait = next(waits, None)
                pause(wait or 0.0, error)
                made, state = True, self._state_after(error)
                if wait is None and any(state.changes_to(files, self.mirrored)):
                    raise
        return made, state.sha

    def _state_after(self, error: Exception) -> RemoteState:
        try:
            return self.state()
        except CLIENT_ERRORS as later:
            raise PublishError(
                f"whether {self.repo_id} was published is not known: the commit failed ({first_line(error)}) "
                f"and then looking ({first_line(later)}); pushing again finds out and repeats nothing."
            ) from later

    def _commit(
        self, paths: Mapping[str, Path], adds: list[str], deletes: list[str], message: str, parent: str
    ) -> str:
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        operations += [CommitOperationAdd(name, paths[name]) for name in adds]
        operations += [CommitOperationDelete(name) for name in deletes]
        return self.api.create_commit(
            self.repo_id,
            operations,
            commit_message=message,
            parent_commit=parent,
            revision=self.revision,
            token=self.token,
        ).oid

    def read_back(self, files: dict[str, FileHashes], before: RemoteState, oid: str, is_new: bool) -> None:
        """Compare what commit `oid` serves with the folder; a commit of this push that fails it is undone."""
        try:
            state = self.state(oid)
            wrong = self._wrong_files(files, state)
        except CLIENT_ERRORS as error:
            reason = str(explain(error, self.api, self.repo_id, self.token)).partition(": ")[2]
            raise PublishError(
                f"{self.repo_id} was published as commit {oid[:7]} but could not be read back: {reason} "
                "Pushing again checks it and sends nothing that is there."
            ) from error
        if wrong:
            problem = f"{', '.join(wrong)} came back from {self.repo_id} with other bytes than were sent"
            if is_new:
                raise self._undo(before, state, problem)
            raise PublishError(f"{problem}; delete the damaged files there and push again.")

    def _wrong_files(self, files: dict[str, FileHashes], state: RemoteState) -> list[str]:
        """Names of the files that the Hub lists or serves with another content than was sent."""
        wrong = set(state.differing(files))
        return [name for name in files if name in wrong or not self._serves(name, files[name], state.sha)]

    def _serves(self, name: str, hashes: FileHashes, sha: str) -> bool:
        def same() -> bool:
            path = self.paths[name]
            return serves_the_same(self.api, self.repo_id, sha, name, path, hashes.size, self.token)

        # Asked twice: bytes can also be damaged on the way here.
        return retried(same) or retried(same)

    def _undo(self, before: RemoteState, damaged: RemoteState, problem: str) -> PublishError:
        """Put the branch back to what it held, and say how that went."""
        try:
            retried(lambda: self._restore(before, damaged))
        except CLIENT_ERRORS as error:
            return PublishError(
                f"{problem}, and undoing that failed ({first_line(error)}); what it held before is commit "
                f"{before.sha}; push again."
            )
        return PublishError(f"{problem}; it was put back to what it held before; push again.")

    def _restore(self, before: RemoteState, damaged: RemoteState) -> None:
        """One commit on top of the damaged one that makes the files what they were at `before`."""
        if self.state().files == before.files:  # done already, and the answer lost
            return
        changed = [name for name, file in before.files.items() if damaged.files.get(name) != file]
        added = [name for name in damaged.files if name not in before.files]
        with tempfile.TemporaryDirectory() as folder:
            for name in changed:
                content = read_file(self.api, self.repo_id, before.sha, name, self.token)
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                if not before.files[name].is_same(FileHashes.of(path)):
                    raise ValueError(f"{name} of the commit before came back damaged too")
            message = f"Undo {damaged.sha[:7]}: damaged on the way"
            paths = {name: Path(folder, name) for name in changed}
            self._commit(paths, changed, added, message, damaged.sha)


def retried(request: Callable[[], T]) -> T:
    """Result of `request`, tried again after each of `WAITS` seconds while what goes wrong may pass."""
    for wait in WAITS:
        try:
            return request()
        except CLIENT_ERRORS as error:
            if not is_transient(error):
                raise
            pause(wait, error)
    return request()


def pause(seconds: float, error: BaseException) -> None:
    """Wait, at least as long as the Hub asked for (up to a minute)."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")
    seconds = max(seconds, min(float(asked), 60.0)) if asked.isdigit() else seconds
    logger.info("The Hub did not answer as it should (%s); trying again in %g s.", first_line(error), seconds)
    time.sleep(seconds)

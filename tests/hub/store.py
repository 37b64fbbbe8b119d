"""What the test Hub remembers: users, repositories, commits, LFS objects. No HTTP here (see server.py)."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".model", ".png", ".webp", ".tar")
GITATTRIBUTES = "".join(
    f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES
).encode()


class HubError(Exception):
    """An answer that is not 2xx: status, the Hub's X-Error-Code, and a message."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: object) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.body = status, message, code, body


@dataclass(frozen=True)
class User:
    name: str
    role: str = "write"
    organizations: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        return self.role == "write" and (namespace == self.name or namespace in self.organizations)


@dataclass(frozen=True)
class StoredFile:
    """One file of one commit: `content` for a regular file, `sha256` for an LFS one."""

    size: int
    content: bytes | None = None
    sha256: str | None = None
    declared_blob_id: str | None = None

    @property
    def pointer(self) -> bytes:
        lines = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n"
        return lines.encode()

    @property
    def blob_id(self) -> str:
        if self.declared_blob_id:
            return self.declared_blob_id
        body = self.pointer if self.content is None else self.content
        return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()

    def as_json(self, path: str) -> dict[str, object]:
        entry: dict[str, object] = {"type": "file", "path": path, "oid": self.blob_id, "size": self.size}
        if self.sha256:
            entry["lfs"] = {"oid": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return entry

    def as_sibling(self, path: str) -> dict[str, object]:
        entry: dict[str, object] = {"rfilename": path, "blobId": self.blob_id, "size": self.size}
        if self.sha256:
            entry["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": len(self.pointer)}
        return entry


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
    author: str
    date: str
    files: dict[str, StoredFile]


@dataclass
class Repo:
    kind: str
    repo_id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.repo_id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def history(self, revision: str = "main") -> list[Commit]:
        """Commits from the newest back to the first."""
        commits, commit = [], self.resolve(revision)
        while True:
            commits.append(commit)
            if commit.parent is None:
                return commits
            commit = self.commits[commit.parent]

    def add_commit(self, branch: str, title: str, author: str, files: dict[str, StoredFile]) -> Commit:
        parent = self.branches.get(branch)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        oid = hashlib.sha1(f"{self.repo_id}{parent}{title}{now}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, author, now, files)
        self.branches[branch] = oid
        return self.commits[oid]


class HubStore:
    """All repositories of one test Hub. Every public method may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}
        self.readers: dict[str, set[str]] = {}

    def add_user(
        self, token: str, name: str, role: str = "write", organizations: tuple[str, ...] = ()
    ) -> None:
        self.users[token] = User(name, role, organizations)

    def create(self, user: User, kind: str, repo_id: str, private: bool) -> Repo:
        with self.lock:
            namespace = repo_id.split("/")[0]
            if not user.may_write(namespace):
                message = f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
                raise HubError(403, message)
            if (kind, repo_id) in self.repos:
                raise HubError(409, f"You already created this {kind} repo: {repo_id}", exists=True)
            repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private)
            attributes = StoredFile(len(GITATTRIBUTES), GITATTRIBUTES)
            repo.add_commit("main", "initial commit", user.name, {".gitattributes": attributes})
            return repo

    def readable(self, user: User | None, kind: str, repo_id: str) -> Repo:
        """The repo, or the Hub's answer to someone who may not see it: 401 to strangers, 404 to users."""
        repo = self.repos.get((kind, repo_id))
        hidden = repo is None or (repo.private and not self.is_member(user, repo))
        if repo is None or hidden:
            status = 404 if user else 401
            raise HubError(status, "Repository not found", "RepoNotFound")
        return repo

    def is_member(self, user: User | None, repo: Repo) -> bool:
        return user is not None and repo.namespace in (user.name, *user.organizations)

    def downloadable(self, user: User | None, kind: str, repo_id: str) -> Repo:
        repo = self.readable(user, kind, repo_id)
        granted = self.is_member(user, repo) or (user and user.name in self.readers.get(repo_id, ()))
        if repo.gated and not granted:
            raise HubError(403 if user else 401, f"Access to model {repo_id} is restricted", "GatedRepo")
        return repo

    def writable(self, user: User | None, kind: str, repo_id: str) -> Repo:
        repo = self.downloadable(user, kind, repo_id)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.may_write(repo.namespace):
            raise HubError(403, "Authorization error. You don't have write access to this repo.")
        return repo

    def commit(self, user: User, repo: Repo, branch: str, lines: list[dict]) -> Commit:
        """Apply an NDJSON commit as one step: all of its lines or none."""
        with self.lock:
            header = lines[0]["value"]
            if branch not in repo.branches:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = header.get("parentCommit")
            if parent and parent != repo.branches[branch]:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repo.resolve(branch).files)
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            return repo.add_commit(branch, header["summary"], user.name, files)

    def _apply(self, files: dict[str, StoredFile], key: str, value: dict) -> None:
        path = value["path"]
        if key == "file":
            files[path] = StoredFile(len(value["content"]), value["content"])
        elif key == "lfsFile":
            if value["oid"] not in self.lfs:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            # A copy (no size) keeps the size of the file it was copied from.
            known = [
                f.size
                for repo in self.repos.values()
                for c in repo.commits.values()
                for f in c.files.values()
                if f.sha256 == value["oid"]
            ]
            files[path] = StoredFile(value.get("size") or known[0], sha256=value["oid"])
        elif key == "deletedFile":
            if path not in files:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            del files[path]
        elif key == "deletedFolder":
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]
        else:
            raise HubError(400, f"unknown operation {key}")

    def tamper(self, repo: Repo, path: str, content: bytes, *, keep_blob_id: bool) -> None:
        """Rewrite a regular file of the newest commit in place, as a broken disk would (no new commit)."""
        commit = repo.resolve("main")
        old = commit.files[path]
        kept = old.blob_id if keep_blob_id else None
        commit.files[path] = replace(old, content=content, declared_blob_id=kept)

    def read(self, file: StoredFile) -> bytes:
        return file.content if file.content is not None else self.lfs[file.sha256 or ""]

"""What the test Hub remembers: users, repositories, commits, LFS objects. No HTTP here (see server.py)."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".model", ".png", ".webp", ".tar")


class HubError(Exception):
    """An answer that is not 2xx: status, message, the Hub's X-Error-Code, and the path of the repo it is about."""

    def __init__(self, status: int, message: str, code: str | None = None, path: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.path = status, message, code, path


@dataclass(frozen=True)
class User:
    name: str
    role: str = "write"
    organizations: tuple[str, ...] = ()

    def may_write(self, namespace: str) -> bool:
        return self.role == "write" and namespace in (self.name, *self.organizations)


@dataclass(frozen=True)
class StoredFile:
    """One file of one commit; of an LFS file, git holds a pointer."""

    content: bytes
    is_lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        lines = f"oid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return b"version https://git-lfs.github.com/spec/v1\n" + lines.encode()

    @property
    def blob_id(self) -> str:
        body = self.pointer if self.is_lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()

    @property
    def oid(self) -> str:
        return self.sha256 if self.is_lfs else self.blob_id

    def listed(self, path: str) -> dict[str, object]:
        """As trees (`path`, `oid`, `lfs.oid`) and siblings (`rfilename`, `blobId`, `lfs.sha256`) list it."""
        size = len(self.content)
        entry = {"type": "file", "path": path, "rfilename": path, "size": size}
        lfs = {"oid": self.sha256, "sha256": self.sha256, "size": size, "pointerSize": len(self.pointer)}
        return {**entry, "oid": self.blob_id, "blobId": self.blob_id, **({"lfs": lfs} if self.is_lfs else {})}


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    title: str
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
        commits = [self.resolve(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def add_commit(self, branch: str, title: str, files: dict[str, StoredFile]) -> Commit:
        parent = self.branches.get(branch)
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        oid = hashlib.sha1(f"{self.repo_id}{parent}{title}{now}{len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = Commit(oid, parent, title, now, files)
        self.branches[branch] = oid
        return self.commits[oid]


class HubStore:
    """All repositories of one test Hub. Its methods may be called from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lfs: dict[str, bytes] = {}

    def add_user(self, token: str, *user: object, **more: object) -> None:
        self.users[token] = User(*user, **more)  # type: ignore[arg-type]

    def create(self, user: User, kind: str, repo_id: str, private: bool) -> None:
        with self.lock:
            namespace = repo_id.split("/")[0]
            if not user.may_write(namespace):
                message = f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"'
                raise HubError(403, message)
            if (kind, repo_id) in self.repos:
                raise HubError(409, f"You already created this {kind} repo: {repo_id}", path=f"/{repo_id}")
            repo = self.repos[kind, repo_id] = Repo(kind, repo_id, private)
            lines = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
            repo.add_commit("main", "initial commit", {".gitattributes": StoredFile(lines.encode())})

    def readable(self, user: User | None, kind: str, repo_id: str) -> Repo:
        """The repo, or the Hub's answer to someone who may not see it: 401 to strangers, 404 to users."""
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and not self._is_member(user, repo)):
            raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")
        return repo

    def _is_member(self, user: User | None, repo: Repo) -> bool:
        return user is not None and repo.namespace in (user.name, *user.organizations)

    def downloadable(self, user: User | None, kind: str, repo_id: str) -> Repo:
        repo = self.readable(user, kind, repo_id)
        if repo.gated and not self._is_member(user, repo):
            raise HubError(403 if user else 401, f"Access to model {repo_id} is restricted", "GatedRepo")
        return repo

    def writable(self, user: User | None, kind: str, repo_id: str) -> Repo:
        repo = self.downloadable(user, kind, repo_id)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.may_write(repo.namespace):
            raise HubError(403, "Authorization error. You don't have write access to this repo.")
        return repo

    def keep_lfs(self, oid: str, content: bytes) -> None:
        """Keep an uploaded object; as the Hub, refuse one that is not what its name says."""
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "The uploaded object does not match its SHA-256")
        self.lfs[oid] = content

    def commit(self, repo: Repo, branch: str, lines: list[dict]) -> Commit:
        """Apply an NDJSON commit as one step: all of its lines or none."""
        with self.lock:
            header = lines[0]["value"]
            if branch not in repo.branches:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            files = dict(repo.resolve(branch).files)
            if header.get("parentCommit") not in (None, repo.branches[branch]):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            for line in lines[1:]:
                self._apply(files, line["key"], line["value"])
            return repo.add_commit(branch, header["summary"], files)

    def _apply(self, files: dict[str, StoredFile], key: str, value: dict) -> None:
        path = value["path"]
        if key == "file":
            files[path] = StoredFile(value["content"])
        elif key == "lfsFile":
            if value["oid"] not in self.lfs:
                raise HubError(400, f"LFS pointer pointed to a file that does not exist: {path}")
            files[path] = StoredFile(self.lfs[value["oid"]], is_lfs=True)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        else:
            raise HubError(400, f"unknown operation {key}")

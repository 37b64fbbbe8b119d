"""A small Hub on 127.0.0.1, so that the real huggingface_hub client can push to and load from it.

It keeps everything in memory and speaks the part of the protocol that models, data sets and Spaces need: create,
preupload, LFS (basic and multipart), atomic commits with a parent, branches, tags, trees, resolve with
ranges. `hub.faults.add(Fault("commit", "lost"))` makes a stage go wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import REFUSALS, FaultBox, damage
from .store import LFS_SUFFIXES, HubError, HubStore, Repo, StoredFile, User

API = r"/api/(?P<kind>models|datasets|spaces)/(?P<ns>[^/]+)/(?P<name>[^/]+)"
GIT = r"/(?:(?P<kind>datasets|spaces)/)?(?P<ns>[^/]+)/(?P<name>[^/]+)"
REV = r"/(?P<rev>[^/]+)"
# Method, path, stage (what faults are named by), handler.
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami", "whoami"),
    ("POST", r"/api/repos/create", "create", "create_repo"),
    ("POST", r"/api/validate-yaml", "validate", "validate_yaml"),
    ("POST", API + "/preupload" + REV, "preupload", "preupload"),
    ("POST", API + "/commit" + REV, "commit", "commit"),
    ("POST", API + "/branch" + REV, "create", "create_branch"),
    ("POST", API + "/tag" + REV, "create", "create_tag"),
    ("POST", API + "/paths-info" + REV, "info", "paths_info"),
    ("GET", API + "/tree" + REV + "(?:/(?P<path>.*))?", "tree", "tree"),
    ("GET", API + "/commits" + REV, "info", "commits"),
    ("GET", API + f"(?:/revision{REV})?", "info", "repo_info"),
    ("POST", GIT + r"\.git/info/lfs/objects/batch", "batch", "lfs_batch"),
    ("PUT", r"/lfs-upload/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?", "upload", "lfs_put"),
    ("POST", r"/lfs-complete/(?P<oid>[0-9a-f]{64})", "complete", "lfs_complete"),
    ("GET", GIT + "/resolve" + REV + "/(?P<path>.+)", "download", "resolve"),
]
COMPILED = [(method, re.compile(pattern + r"/?"), stage, name) for method, pattern, stage, name in ROUTES]
Headers = Mapping[str, str]


class Dropped(Exception):
    """Close the connection without another byte."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement of its headers
    hub: LocalHub
    fault: str | None = None

    def log_message(self, format: str, *args: object) -> None:
        pass

    # One request: find its route, meet its fault, do the work, answer.

    def _serve(self) -> None:
        self.body = self._read_body()
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, stage, name in COMPILED:
            match = pattern.fullmatch(url.path) if wanted == method else None
            if match:
                self.args = {key: unquote(value) for key, value in match.groupdict().items() if value}
                return self._run("head" if self.command == "HEAD" else stage, name)
        self.fault = None
        self._json({"error": f"no route {method} {url.path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _run(self, stage: str, name: str) -> None:
        self.hub.requests[name] += 1
        self.fault = self.hub.faults.take(stage)
        try:
            if self.fault == "drop":
                raise Dropped
            if self.fault == "slow":
                threading.Event().wait(2)  # not time.sleep, which tests shorten
            if self.fault in REFUSALS:
                raise HubError(*REFUSALS[self.fault])
            getattr(self, "_" + name)()
            self.hub.faults.served(stage)
        except HubError as error:
            code = {"X-Error-Code": error.code} if error.code else {}
            headers = {"X-Error-Message": error.message, **code}
            self._json({"error": error.message, "url": self.hub.endpoint + error.path}, error.status, headers)
        except Dropped:
            self.close_connection = True
            self.connection.close()

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, status: int, body: bytes, headers: Headers) -> None:
        if self.fault == "lost":
            raise Dropped
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        # The promised length stays: a truncated answer is one that stops early.
        sent = damage(self.fault, body) if status < 300 else body
        self.wfile.write(sent)
        if len(sent) < len(body):
            self.wfile.flush()
            raise Dropped

    def _json(self, value: object, status: int = 200, headers: Headers | None = None) -> None:
        self._send(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    # Who is asking, and for what.

    def _user(self) -> User | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if token and token not in self.hub.store.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.store.users.get(token)

    def _member(self) -> User:
        if (user := self._user()) is None:
            raise HubError(401, "Invalid username or password.")
        return user

    def _repo(self, allowed: str) -> Repo:
        """The repository of this request, where its sender is "readable", "downloadable" or "writable" to."""
        repo_id = f"{self.args['ns']}/{self.args['name']}"
        self.hub.asked.add(repo_id)
        kind = self.args.get("kind", "models").removesuffix("s")
        return getattr(self.hub.store, allowed)(self._user(), kind, repo_id)

    def _files(self, allowed: str = "readable") -> dict[str, StoredFile]:
        return self._repo(allowed).resolve(self.args["rev"]).files

    # Routes.

    def _whoami(self) -> None:
        user = self._member()
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
        orgs = [{"name": name} for name in user.organizations]
        self._json({"type": "user", "name": user.name, "orgs": orgs, "auth": token})

    def _create_repo(self) -> None:
        asked, user = json.loads(self.body), self._member()
        kind = asked.get("type") or "model"
        repo_id = f"{asked.get('organization') or user.name}/{asked['name']}"
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.store.create(user, kind, repo_id, bool(private))
        prefix = "" if kind == "model" else f"{kind}s/"
        self._json({"url": f"{self.hub.endpoint}/{prefix}{repo_id}", "name": repo_id})

    def _validate_yaml(self) -> None:
        self._json({"errors": [], "warnings": []})

    def _preupload(self) -> None:
        files, answers = self._files("writable"), []
        for asked in json.loads(self.body)["files"]:
            path = asked["path"]
            mode = "lfs" if path.endswith(LFS_SUFFIXES) or asked["size"] > 10 * 2**20 else "regular"
            there = files[path].oid if path in files else None
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": there})
        self._json({"files": answers})

    def _lfs_batch(self) -> None:
        self._repo("writable")
        asked = json.loads(self.body)
        self._json({"objects": [self._lfs_object(**each) for each in asked["objects"]]})

    def _lfs_object(self, oid: str, size: int) -> dict:
        hub, chunk = self.hub, self.hub.multipart_chunk
        if oid in hub.store.lfs:
            return {"oid": oid, "size": size}
        upload: dict = {"href": f"{hub.endpoint}/lfs-upload/{oid}"}
        if chunk and size > chunk:
            parts = {f"{i + 1:05d}": f"{hub.endpoint}/lfs-upload/{oid}/{i}" for i in range(-(-size // chunk))}
            header = {"chunk_size": str(chunk), **parts}
            upload = {"href": f"{hub.endpoint}/lfs-complete/{oid}", "header": header}
        return {"oid": oid, "size": size, "actions": {"upload": upload}}

    def _received(self, content: bytes) -> bytes:
        """What was sent, as the fault leaves it; the answer is then sound."""
        content = damage(self.fault, content)
        self.fault = self.fault if self.fault == "lost" else None
        return content

    def _lfs_put(self) -> None:
        content = self._received(self.body)
        if "part" in self.args:
            self.hub.parts[self.args["oid"], int(self.args["part"])] = content
        else:
            self.hub.store.keep_lfs(self.args["oid"], content)
        self._send(200, b"", {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    def _lfs_complete(self) -> None:
        oid = self.args["oid"]
        numbers = sorted(part["partNumber"] - 1 for part in json.loads(self.body)["parts"])
        self.hub.store.keep_lfs(oid, b"".join(self.hub.parts[oid, number] for number in numbers))
        self._json({"success": True})

    def _commit(self) -> None:
        repo, store = self._repo("writable"), self.hub.store
        lines = [json.loads(line) for line in self.body.splitlines()]
        for value in (line["value"] for line in lines if line["key"] == "file"):
            value["content"] = damage(self.fault, base64.b64decode(value["content"]))
        self.fault = self.fault if self.fault == "lost" else None
        commit = store.commit(repo, self.args["rev"], lines)
        url = f"{self.hub.endpoint}/{repo.repo_id}/commit/{commit.oid}"
        self._json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _create_branch(self) -> None:
        self._add_ref(self._repo("writable").branches, self.args["rev"], "main")

    def _create_tag(self) -> None:
        self._add_ref(self._repo("writable").tags, json.loads(self.body)["tag"], self.args["rev"])

    def _add_ref(self, refs: dict[str, str], name: str, start: str) -> None:
        if name in refs:
            raise HubError(409, f"Reference already exists: {name}")
        refs[name] = self._repo("writable").resolve(start).oid
        self._json({})

    def _tree(self) -> None:
        start = self.args["path"].strip("/") + "/" if "path" in self.args else ""
        below = {path: file for path, file in self._files().items() if path.startswith(start)}
        if start and not below:
            raise HubError(404, f"{start[:-1]} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for path, file in below.items():
            *parents, _ = path[len(start) :].split("/")
            folders |= {start + "/".join(parents[: i + 1]) for i in range(len(parents) if recursive else 1)}
            entries += [file.listed(path)] if recursive or not parents else []
        entries += [self._folder(path) for path in folders - {start}]
        self._json(sorted(entries, key=lambda entry: str(entry["path"])))

    def _folder(self, path: str) -> dict[str, object]:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}

    def _paths_info(self) -> None:
        files = self._files()
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode())["paths"]
        folders = {path for path in asked if any(name.startswith(path.rstrip("/") + "/") for name in files)}
        entries = [files[path].listed(path) for path in asked if path in files]
        self._json(entries + [self._folder(path) for path in folders])

    def _commits(self) -> None:
        history = self._repo("readable").history(self.args["rev"])
        about = {"message": "", "authors": []}
        self._json([{"id": c.oid, "title": c.title, "date": c.date, **about} for c in history])

    def _repo_info(self) -> None:
        repo = self._repo("readable")
        commit, first = repo.resolve(self.args.get("rev", "main")), repo.history()[-1]
        config = commit.files.get("config.json", StoredFile(b""))
        kind = re.search(rb'"model_type": "(\w+)"', config.content)
        self._json({
            "_id": first.oid[:24], "id": repo.repo_id, "modelId": repo.repo_id, "author": repo.namespace,
            "sha": commit.oid, "private": repo.private, "gated": "auto" if repo.gated else False,
            "disabled": False, "downloads": 0, "likes": 0, "tags": [], "createdAt": first.date,
            "lastModified": commit.date, **({"config": {"model_type": kind[1].decode()}} if kind else {}),
            "siblings": [file.listed(path) for path, file in sorted(commit.files.items())],
        })  # fmt: skip

    def _resolve(self) -> None:
        repo = self._repo("downloadable")
        commit = repo.resolve(self.args["rev"])
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if (file := commit.files.get(self.args["path"])) is None:
            body = json.dumps({"error": "Entry not found"}).encode()
            return self._send(404, body, {**headers, "X-Error-Code": "EntryNotFound"})
        headers["ETag"] = f'"{file.oid}"'
        if file.is_lfs:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(len(file.content))}
        self._content(file.content, headers)

    def _content(self, content: bytes, headers: Headers) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._send(200, content, headers)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first >= len(content):
            return self._send(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
        headers = {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._send(206, content[first : last + 1], headers)


class LocalHub:
    """The running server. `with LocalHub() as hub:` gives `hub.endpoint`, `hub.store`, `hub.faults`."""

    def __init__(self) -> None:
        self.store = HubStore()
        self.faults = FaultBox()
        self.requests: Counter[str] = Counter()
        self.parts: dict[tuple[str, int], bytes] = {}
        self.multipart_chunk: int | None = None  # LFS files above this size are uploaded in parts
        self.asked: set[str] = set()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        return self.store.repos[kind, repo_id]

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

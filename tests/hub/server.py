"""A small Hub on 127.0.0.1, so that the real huggingface_hub client can push to and load from it.

It keeps everything in memory and speaks the part of the protocol that models, datasets and Spaces need: create,
preupload, LFS (basic and multipart), atomic commits with a parent, branches, tags, trees, resolve with
ranges. `hub.faults.add(Fault("commit", "lost"))` makes a stage go wrong.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .faults import REFUSALS, FaultBox, damage
from .store import LFS_SUFFIXES, HubError, HubStore, Repo, User
from .xet import XetStore

API = r"/api/(?P<kind>models|datasets|spaces)/(?P<ns>[^/]+)/(?P<name>[^/]+)"
GIT = r"/(?:(?P<kind>datasets|spaces)/)?(?P<ns>[^/]+)/(?P<name>[^/]+)"
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami", "whoami"),
    ("POST", r"/api/repos/create", "create", "create_repo"),
    ("POST", r"/api/validate-yaml", "validate", "validate_yaml"),
    ("POST", API + r"/preupload/(?P<rev>[^/]+)", "preupload", "preupload"),
    ("POST", API + r"/commit/(?P<rev>[^/]+)", "commit", "commit"),
    ("POST", API + r"/branch/(?P<rev>[^/]+)", "create", "create_branch"),
    ("POST", API + r"/tag/(?P<rev>[^/]+)", "create", "create_tag"),
    ("POST", API + r"/paths-info/(?P<rev>[^/]+)", "info", "paths_info"),
    ("GET", API + r"/tree/(?P<rev>[^/]+)(?:/(?P<path>.*))?", "info", "tree"),
    ("GET", API + r"/refs", "info", "refs"),
    ("GET", API + r"/commits/(?P<rev>[^/]+)", "info", "commits"),
    ("GET", API + r"(?:/revision/(?P<rev>[^/]+))?", "info", "repo_info"),
    ("GET", API + r"/xet-(?P<access>read|write)-token/(?P<rev>[^/]+)", "batch", "xet_token"),
    ("POST", GIT + r"\.git/info/lfs/objects/batch", "batch", "lfs_batch"),
    ("PUT", r"/lfs-upload/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?", "upload", "lfs_put"),
    ("POST", r"/lfs-complete/(?P<oid>[0-9a-f]{64})", "complete", "lfs_complete"),
    ("GET", GIT + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)", "download", "resolve"),
]
COMPILED = [(method, re.compile(pattern + r"/?"), stage, name) for method, pattern, stage, name in ROUTES]


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
                return self._run(stage, name)
        self.fault = None
        self._json({"error": f"no route {method} {url.path}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _run(self, stage: str, name: str) -> None:
        self.hub.requests[name] += 1
        stage = "head" if self.command == "HEAD" else stage
        self.fault = self.hub.faults.take(stage, self.path)
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
            body = {"error": error.message, **error.body}
            if error.body.get("exists"):
                body["url"] = f"{self.hub.endpoint}/{self._repo_id(json.loads(self.body))}"
            self._json(body, error.status, {"X-Error-Code": error.code, "X-Error-Message": error.message})
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

    def _send(self, status: int, body: bytes, headers: dict[str, str | None]) -> None:
        if self.fault == "lost":
            raise Dropped
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            if value is not None:
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

    def _json(self, value: object, status: int = 200, headers: dict[str, str | None] | None = None) -> None:
        self._send(
            status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    # Who is asking, and for what.

    def _user(self) -> User | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        if not token:
            return None
        if token not in self.hub.store.users:
            raise HubError(401, "Invalid credentials in Authorization header")
        return self.hub.store.users[token]

    def _where(self) -> tuple[str, str]:
        repo_id = f"{self.args['ns']}/{self.args['name']}"
        self.hub.asked.add(repo_id)
        return self.args.get("kind", "models").removesuffix("s"), repo_id

    def _readable(self) -> Repo:
        return self.hub.store.readable(self._user(), *self._where())

    def _writable(self) -> Repo:
        return self.hub.store.writable(self._user(), *self._where())

    def _repo_id(self, asked: dict) -> str:
        user = self._user()
        return f"{asked.get('organization') or (user.name if user else '')}/{asked['name']}"

    # Routes.

    def _whoami(self) -> None:
        user = self._user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
        orgs = [{"name": name} for name in user.organizations]
        self._json({"type": "user", "name": user.name, "orgs": orgs, "auth": token})

    def _create_repo(self) -> None:
        asked, user = json.loads(self.body), self._user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        kind, repo_id = asked.get("type") or "model", self._repo_id(asked)
        private = asked.get("private") or asked.get("visibility") == "private"
        self.hub.store.create(user, kind, repo_id, bool(private))
        prefix = "" if kind == "model" else f"{kind}s/"
        self._json({"url": f"{self.hub.endpoint}/{prefix}{repo_id}", "name": repo_id})

    def _validate_yaml(self) -> None:
        content = json.loads(self.body)["content"]
        warnings = (
            [] if content.startswith("---") else [{"message": "empty or missing yaml metadata in repo card"}]
        )
        self._json({"errors": [], "warnings": warnings})

    def _preupload(self) -> None:
        files = self._writable().resolve(self.args["rev"]).files
        answers = []
        for asked in json.loads(self.body)["files"]:
            large = asked["path"].endswith(LFS_SUFFIXES) or asked["size"] > 10 * 2**20
            there = files.get(asked["path"])
            oid = (there.sha256 or there.blob_id) if there else None
            mode = "lfs" if large else "regular"
            answers.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": answers})

    def _lfs_batch(self) -> None:
        self._writable()
        asked = json.loads(self.body)
        # Clients before huggingface_hub 2 ask here whether to go through Xet.
        chosen = {"transfer": "xet"} if self.hub.xet and "xet" in asked["transfers"] else {}
        self._json({"objects": [self._lfs_object(**each) for each in asked["objects"]], **chosen})

    def _lfs_object(self, oid: str, size: int) -> dict:
        described: dict = {"oid": oid, "size": size}
        hub, chunk = self.hub, self.hub.multipart_chunk
        if oid in hub.store.lfs:
            return described
        upload: dict = {"href": f"{hub.endpoint}/lfs-upload/{oid}"}
        if chunk and size > chunk:
            parts = {f"{i + 1:05d}": f"{hub.endpoint}/lfs-upload/{oid}/{i}" for i in range(-(-size // chunk))}
            upload = {
                "href": f"{hub.endpoint}/lfs-complete/{oid}",
                "header": {"chunk_size": str(chunk), **parts},
            }
        return {**described, "actions": {"upload": upload}}

    def _lfs_put(self) -> None:
        content = damage(self.fault, self.body)
        self.fault = self.fault if self.fault == "lost" else None
        if "part" in self.args:
            self.hub.parts[self.args["oid"], int(self.args["part"])] = content
        else:
            self.hub.store.lfs[self.args["oid"]] = content
        self._send(200, b"", {"ETag": f'"{hashlib.md5(content).hexdigest()}"'})

    def _lfs_complete(self) -> None:
        oid = self.args["oid"]
        numbers = sorted(part["partNumber"] - 1 for part in json.loads(self.body)["parts"])
        self.hub.store.lfs[oid] = b"".join(self.hub.parts[oid, number] for number in numbers)
        self._json({"success": True})

    def _xet_token(self) -> None:
        self._writable() if self.args["access"] == "write" else self._readable()
        if self.hub.xet is None:
            raise HubError(404, "this Hub has no Xet storage")
        address, expires = self.hub.xet.address, int(time.time()) + 3600
        headers = {
            "X-Xet-Cas-Url": address,
            "X-Xet-Access-Token": "t",
            "X-Xet-Token-Expiration": str(expires),
        }
        self._json({"casUrl": address, "accessToken": "t", "exp": expires}, headers=dict(headers))

    def _commit(self) -> None:
        repo, store = self._writable(), self.hub.store
        lines = [json.loads(line) for line in self.body.splitlines()]
        for line in lines:
            if line["key"] == "file":
                line["value"]["content"] = damage(self.fault, base64.b64decode(line["value"]["content"]))
        self.fault = self.fault if self.fault == "lost" else None
        if self.hub.xet:
            large = [line["value"]["oid"] for line in lines if line["key"] == "lfsFile"]
            store.lfs |= self.hub.xet.fetch([oid for oid in large if oid not in store.lfs])
        user = self._user()
        assert user is not None
        commit = store.commit(user, repo, self.args["rev"], lines)
        url = f"{self.hub.endpoint}/{repo.repo_id}/commit/{commit.oid}"
        self._json({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _create_branch(self) -> None:
        repo, branch = self._writable(), self.args["rev"]
        if branch in repo.branches:
            raise HubError(409, f"Reference already exists: {branch}")
        repo.branches[branch] = repo.resolve(
            json.loads(self.body or b"{}").get("startingPoint") or "main"
        ).oid
        self._json({})

    def _create_tag(self) -> None:
        repo, tag = self._writable(), json.loads(self.body)["tag"]
        if tag in repo.tags:
            raise HubError(409, f"Reference already exists: {tag}")
        repo.tags[tag] = repo.resolve(self.args["rev"]).oid
        self._json({})

    def _tree(self) -> None:
        files = self._readable().resolve(self.args["rev"]).files
        start = self.args["path"].strip("/") + "/" if "path" in self.args else ""
        below = {path: file for path, file in files.items() if path.startswith(start)}
        if start and not below:
            raise HubError(404, f"{start[:-1]} does not exist", "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = [
            file.as_json(path) for path, file in below.items() if recursive or "/" not in path[len(start) :]
        ]
        entries += [self._folder(path) for path in self._folders(below, start, recursive)]
        self._json(sorted(entries, key=lambda entry: str(entry["path"])))

    def _folders(self, files: dict, start: str, recursive: bool) -> set[str]:
        parents = set()
        for path in files:
            names = path[len(start) :].split("/")[:-1]
            depth = len(names) if recursive else min(1, len(names))
            parents |= {start + "/".join(names[: i + 1]) for i in range(depth)}
        return parents

    def _folder(self, path: str) -> dict[str, object]:
        return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}

    def _paths_info(self) -> None:
        files = self._readable().resolve(self.args["rev"]).files
        is_json = "json" in self.headers.get("Content-Type", "")
        asked = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode())["paths"]
        entries = [files[path].as_json(path) for path in asked if path in files]
        folders = {path for path in asked if any(name.startswith(path.rstrip("/") + "/") for name in files)}
        self._json(entries + [self._folder(path) for path in folders])

    def _refs(self) -> None:
        repo = self._readable()
        heads = [
            {"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repo.branches.items()
        ]
        tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repo.tags.items()]
        self._json({"branches": heads, "tags": tags, "converts": [], "pullRequests": []})

    def _commits(self) -> None:
        history = self._readable().history(self.args["rev"])
        self._json(
            [
                {
                    "id": c.oid,
                    "title": c.title,
                    "message": "",
                    "date": c.date,
                    "authors": [{"user": c.author}],
                }
                for c in history
            ]
        )

    def _repo_info(self) -> None:
        repo = self._readable()
        commit = repo.resolve(self.args.get("rev", "main"))
        first = repo.history("main")[-1]
        self._json({
            "_id": first.oid[:24], "id": repo.repo_id, "modelId": repo.repo_id, "author": repo.namespace,
            "sha": commit.oid, "private": repo.private, "gated": "auto" if repo.gated else False,
            "disabled": False, "downloads": 0, "likes": 0, "tags": [], "createdAt": first.date,
            "lastModified": commit.date,
            "siblings": [file.as_sibling(path) for path, file in sorted(commit.files.items())],
        })  # fmt: skip

    def _resolve(self) -> None:
        repo = self.hub.store.downloadable(self._user(), *self._where())
        commit = repo.resolve(self.args["rev"])
        headers: dict[str, str | None] = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        file = commit.files.get(self.args["path"])
        if file is None:
            body = json.dumps({"error": "Entry not found"}).encode()
            return self._send(404, body, {**headers, "X-Error-Code": "EntryNotFound"})
        headers["ETag"] = f'"{file.sha256 or file.blob_id}"'
        if file.sha256:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(file.size)}
        if self.hub.xet and file.sha256 in self.hub.xet.hashes:
            route = f"{self.hub.endpoint}/api/{repo.kind}s/{repo.repo_id}/xet-read-token/{commit.oid}"
            headers |= {"X-Xet-Hash": self.hub.xet.hashes[file.sha256], "X-Xet-Refresh-Route": route}
        self._content(self.hub.store.read(file), headers)

    def _content(self, content: bytes, headers: dict[str, str | None]) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self._send(200, content, headers)
        first, last = asked.groups()
        start = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) if first and last else len(content) - 1, len(content) - 1)
        if start >= len(content):
            return self._send(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
        headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self._send(206, content[start : end + 1], headers)


class LocalHub:
    """The running server. `with LocalHub() as hub:` gives `hub.endpoint`, `hub.store`, `hub.faults`."""

    def __init__(self, multipart_chunk: int | None = None) -> None:
        self.store = HubStore()
        self.faults = FaultBox()
        self.requests: Counter[str] = Counter()
        self.parts: dict[tuple[str, int], bytes] = {}
        self.multipart_chunk = multipart_chunk
        self.xet: XetStore | None = None
        self.asked: set[str] = set()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        return self.store.repos[kind, repo_id]

    def __enter__(self) -> LocalHub:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

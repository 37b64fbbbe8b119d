"""What a repository holds, file by file with its hashes, and whether what it serves is what was meant."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_session, hf_hub_url, utils

CHUNK = 1 << 20
DOWNLOADED_WHOLE = 64 << 20
SAMPLES = 16
# Left of an earlier push, these would be loaded beside, or instead of, the new weights.
WEIGHTS = (
    ".safetensors",
    ".safetensors.index.json",
    "adapter_config.json",
    ".bin",
    ".bin.index.json",
    ".pt",
    ".pth",
)


@dataclass(frozen=True)
class FileHashes:
    """Identity of a file by content: the Hub keeps SHA-256 of an LFS file, git's blob id of any other."""

    size: int
    sha256: str
    blob_id: str

    @classmethod
    def of(cls, path: Path) -> FileHashes:
        size = path.stat().st_size
        sha256, blob = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
        with path.open("rb") as file:
            while block := file.read(CHUNK):
                sha256.update(block)
                blob.update(block)
        return cls(size, sha256.hexdigest(), blob.hexdigest())


@dataclass(frozen=True)
class RemoteFile:
    """A file as the Hub lists it; `sha256` is None for one that is not in LFS (or Xet) storage."""

    size: int | None
    blob_id: str | None
    sha256: str | None

    def is_same(self, local: FileHashes) -> bool:
        if self.size != local.size:
            return False
        return self.sha256 == local.sha256 if self.sha256 else self.blob_id == local.blob_id


@dataclass(frozen=True)
class RemoteState:
    """One commit of a repository: its id and its files."""

    sha: str
    files: dict[str, RemoteFile]
    private: bool

    def differing(self, local: dict[str, FileHashes]) -> list[str]:
        """Names of the local files that this commit lacks or holds with another content."""
        return [
            name
            for name, file in local.items()
            if name not in self.files or not self.files[name].is_same(file)
        ]

    def changes_to(
        self, local: dict[str, FileHashes], mirrored: frozenset[str] = frozenset()
    ) -> tuple[list[str], list[str]]:
        """Names to add or overwrite, and to delete (stale weights, and what else is in `mirrored` folders),
        for this commit to hold the local files."""
        stale = [name for name in self.files if is_weights(name) or name.split("/")[0] in mirrored]
        return self.differing(local), [name for name in stale if name not in local]


def is_weights(name: str) -> bool:
    """Whether from_pretrained would look at this file: weights, or what says where they are."""
    return "/" not in name and name.endswith(WEIGHTS)


def read_state(api: HfApi, repo_id: str, revision: str | None, token: str | bool | None) -> RemoteState:
    """The newest commit of `revision` (the default branch when None), in one request and so consistent."""
    info = api.model_info(repo_id, revision=revision, files_metadata=True, token=token)
    files = {
        sibling.rfilename: RemoteFile(
            sibling.size, sibling.blob_id, sibling.lfs.sha256 if sibling.lfs else None
        )
        for sibling in info.siblings or []
    }
    if info.sha is None:
        raise ValueError("the Hub did not say which commit the repository is at")
    return RemoteState(info.sha, files, bool(info.private))


def serves_the_same(
    api: HfApi, repo_id: str, sha: str, name: str, local: Path, size: int, token: str | bool | None
) -> bool:
    """Download `name` at commit `sha` and compare it with the local file of `size` bytes.

    Listed hashes cannot show it: for an LFS file the Hub lists the hash that the client declared.
    Up to `DOWNLOADED_WHOLE` bytes the whole file is compared, beyond that its length and `SAMPLES` blocks of
    CHUNK bytes, the first and the last among them.
    """
    if size <= DOWNLOADED_WHOLE:
        return read_file(api, repo_id, sha, name, token) == local.read_bytes()
    last = size - CHUNK
    with local.open("rb") as file:
        for start in sorted({round(last * i / (SAMPLES - 1)) for i in range(SAMPLES)}):
            file.seek(start)
            wanted = f"bytes={start}-{start + CHUNK - 1}"
            content, held = _get(api, repo_id, sha, name, token, {"Range": wanted})
            if content != file.read(CHUNK) or held.rpartition("/")[2] != str(size):
                return False
    return True


def read_file(api: HfApi, repo_id: str, sha: str, name: str, token: str | bool | None) -> bytes:
    """The bytes of a file at commit `sha`."""
    return _get(api, repo_id, sha, name, token, {})[0]


def _get(
    api: HfApi, repo_id: str, sha: str, name: str, token: str | bool | None, headers: dict[str, str]
) -> tuple[bytes, str]:
    """Body and Content-Range of what the Hub serves, past any cache on this machine."""
    url = hf_hub_url(repo_id, name, revision=sha, endpoint=api.endpoint)
    headers |= utils.build_hf_headers(token=token if token is not None else api.token)
    response = get_session().get(url, headers=headers, follow_redirects=True)
    if response.status_code != 416:  # a range beyond the end is an answer too: the file is too short
        utils.hf_raise_for_status(response)
    return response.content, response.headers.get("Content-Range", "")

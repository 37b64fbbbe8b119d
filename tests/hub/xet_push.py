"""Publishing through Xet storage in a folder: hf_xet brings one, and the test Hub points clients to it.

Pinned: large files go to the Xet store and not through LFS, arrive byte for byte, come back through it, and a
second push sends nothing. Run by test_xet.py in a process of its own: the Xet client keeps threads for good.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hf_customclip.hub import push_folder

from .conftest import WRITE
from .folders import held, local, save_ready
from .server import LocalHub

hf_xet = pytest.importorskip("hf_xet")


class XetStore:
    """A store that clients write to by themselves, past the server.

    The real Hub learns from Xet which content has which SHA-256; here `announce` tells, before the push. The
    bytes still have to come out of the store: what was not uploaded, or damaged, is not served.
    """

    def __init__(self, folder: Path) -> None:
        self.address = f"local://{folder}"
        self.hashes: dict[str, str] = {}
        self._sizes: dict[str, int] = {}

    def announce(self, path: Path) -> None:
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        (known,) = hf_xet.hash_files([str(path)])
        self.hashes[sha256], self._sizes[sha256] = known.hash, known.file_size

    def fetch(self, sha256s: list[str]) -> dict[str, bytes]:
        """Contents by SHA-256, out of the store."""
        contents = {}
        with tempfile.TemporaryDirectory() as folder:
            for sha256 in sha256s:
                path = Path(folder, sha256)
                wanted = hf_xet.PyXetDownloadInfo(str(path), self.hashes[sha256], self._sizes[sha256])
                hf_xet.download_files([wanted], self.address, ("t", int(time.time()) + 3600), None, None)
                contents[sha256] = path.read_bytes()
        return contents


def test_a_push_through_xet(hub: LocalHub, tmp_path: Path) -> None:
    folder = save_ready(tmp_path / "model")
    hub.xet = XetStore(tmp_path / "xet")
    hub.xet.announce(folder / "model.safetensors")
    api = HfApi(endpoint=hub.endpoint, token=WRITE)
    first = push_folder(folder, "alice/m", api=api)
    assert hub.requests["lfs_put"] == 0 and hub.requests["xet_token"] > 0
    assert held(hub) == local(folder)
    got = api.hf_hub_download("alice/m", "model.safetensors", local_dir=tmp_path / "got")
    assert Path(got).read_bytes() == (folder / "model.safetensors").read_bytes()
    second = push_folder(folder, "alice/m", api=api)
    assert second.oid == first.oid and not second.is_new_commit

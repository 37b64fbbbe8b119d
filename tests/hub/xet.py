"""Xet storage in a folder: hf_xet brings one, and the test Hub points clients to it."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path


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
        import hf_xet

        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        (known,) = hf_xet.hash_files([str(path)])
        self.hashes[sha256], self._sizes[sha256] = known.hash, known.file_size

    def fetch(self, sha256s: list[str]) -> dict[str, bytes]:
        """Contents by SHA-256, out of the store."""
        import hf_xet

        token = ("t", int(time.time()) + 3600)
        contents = {}
        with tempfile.TemporaryDirectory() as folder:
            for sha256 in sha256s:
                path = Path(folder, sha256)
                wanted = hf_xet.PyXetDownloadInfo(str(path), self.hashes[sha256], self._sizes[sha256])
                hf_xet.download_files([wanted], self.address, token, None, None)
                contents[sha256] = path.read_bytes()
        return contents

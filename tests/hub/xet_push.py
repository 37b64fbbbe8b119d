"""Publishing through Xet storage, as the client does by itself where hf_xet is installed.

Pinned: large files go to the Xet store and not through LFS, arrive byte for byte, come back through it, and a
second push sends nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi

from hf_customclip.hub import push_folder

from .conftest import WRITE
from .folders import save_ready
from .server import LocalHub
from .test_push import held, local
from .xet import XetStore

pytest.importorskip("hf_xet")


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

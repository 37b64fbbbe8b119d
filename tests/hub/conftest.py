"""A running test Hub, clients for it in this process and in fresh ones, and a small published-format
folder.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants
from interpreters import run_python

from .folders import save_ready
from .server import LocalHub

WRITE, READ, STRANGER = "hf_alice_write", "hf_alice_read", "hf_bob_write"


@pytest.fixture
def hub() -> Iterator[LocalHub]:
    """Alice (a writing and a reading token, member of `acme`) and Bob, on an empty Hub."""
    with LocalHub() as running:
        running.store.add_user(WRITE, "alice", organizations=("acme",))
        running.store.add_user(READ, "alice", role="read", organizations=("acme",))
        running.store.add_user(STRANGER, "bob")
        yield running


@pytest.fixture
def api(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> HfApi:
    """Alice's client in this process. Plain LFS, which the test Hub speaks."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    return HfApi(endpoint=hub.endpoint, token=WRITE)


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is ready to publish."""
    return save_ready(tmp_path_factory.mktemp("saved"))


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Back-off still happens, 500 times faster: the client waits up to 23 s a stage otherwise."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(seconds / 500))


@pytest.fixture
def run_client(hub: LocalHub, tmp_path: Path) -> Callable[..., str]:
    """Run Python code in a process whose Hub is the test one: libraries read HF_ENDPOINT when imported."""

    def run(code: str, *, token: str | None = WRITE, check: bool = True, **more_env: str) -> str:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        env |= {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hf_home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        env |= {"HF_TOKEN": token} if token else {}
        done = run_python(code, env=env | more_env, cwd=tmp_path)
        if check and done.returncode:
            raise AssertionError(f"the client failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    return run

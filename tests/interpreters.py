"""Interpreters of their own for what must be imported, interrupted or killed anew, without the wait for PyTorch.

One process imports PyTorch and other packages that take no settings from the environment, and forks for every
request. transformers, huggingface_hub, datasets and this package are imported anew in each fork, as in an
interpreter that was just started: that takes 3 s of a core instead of 10 s.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

PRELOADED = (
    *("torchvision.transforms.v2", "torch._dynamo", "torch.distributed.tensor", "torch.export"),
    *("pandas", "pyarrow.dataset", "scipy.optimize", "scipy.stats", "sklearn.metrics", "safetensors.torch"),
    *("aiohttp", "httpx", "requests"),
)
COMMAND = "from hf_customclip.cli import main; main()"
REQUEST, LINE = "request.json", "line"
FOLDER = "TEST_INTERPRETERS"
READ_SETTINGS = {"accelerate", "datasets", "evaluate", "hf_customclip", "huggingface_hub", "transformers"}


class Python:
    """`python -c CODE ARGUMENTS`, running.

    Args:
        env: the whole environment; this process's by default.
        cwd: where it runs; here by default.
        input: what it reads from standard input.
    """

    def __init__(
        self,
        code: str,
        *arguments: Any,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        input: str = "",
    ) -> None:
        requests = _server()
        self.folder = Path(tempfile.mkdtemp(dir=requests))
        (self.folder / "stdin").write_text(input)
        request = {
            "code": code,
            "arguments": [str(argument) for argument in arguments],
            "env": dict(os.environ if env is None else env),
            "cwd": os.fspath(cwd or os.getcwd()),
        }
        (self.folder / REQUEST).write_text(json.dumps(request))
        with open(requests / LINE, "w") as line:
            line.write(f"{self.folder}\n")
        self.pid = int(self._told("pid", 120))

    def _told(self, name: str, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while not (self.folder / name).exists():
            assert time.monotonic() < deadline, f"no {name} within {timeout} s: {self.read('stderr')}"
            time.sleep(0.01)
        return self.read(name)

    def read(self, name: str) -> str:
        """What it has written so far to "stdout" or "stderr"."""
        file = self.folder / name
        return file.read_text() if file.exists() else ""

    def wait(self, timeout: float = 300) -> int:
        """Its exit status, negative for a signal, as soon as it has one."""
        return int(self._told("returncode", timeout))

    def is_running(self) -> bool:
        return not (self.folder / "returncode").exists()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def run_python(
    code: str, *arguments: Any, timeout: float = 300, **options: Any
) -> subprocess.CompletedProcess[str]:
    """`python -c CODE ARGUMENTS`, ended; options as for `Python`."""
    return _ended(Python(code, *arguments, **options), timeout)


def _ended(python: Python, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    status = python.wait(timeout)
    return subprocess.CompletedProcess([], status, python.read("stdout"), python.read("stderr"))


def run_processes(
    code: str, *arguments: Any, env: Mapping[str, str], count: int = 2
) -> list[subprocess.CompletedProcess[str]]:
    """The same on several processes that find each other as `torchrun` would have them do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "ACCELERATE_USE_CPU": "true"}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
    running = [Python(code, *arguments, env={**env, **address, **size, **rank}) for rank in ranks]
    return [_ended(python) for python in running]


def code_of(script: Path) -> str:
    """Code that does what `python SCRIPT` does."""
    run = f"runpy.run_path({str(script)!r}, run_name='__main__')"
    return f"import runpy, sys; sys.argv[0] = {str(script)!r}; sys.path[0] = {str(script.parent)!r}; {run}"


def write_commands(folder: Path) -> None:
    """Put `hf-customclip` and `python SCRIPT` into a folder for PATH, each run in a fork of this process's server."""
    requests = _server()
    folder.mkdir()
    for name in ("hf-customclip", "python"):
        file = folder / name
        file.write_text(
            f"#!{sys.executable}\nimport os, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
            f"os.environ.setdefault({FOLDER!r}, {str(requests)!r})\n"
            f"from interpreters import run_command\nrun_command({name!r}, sys.argv[1:])\n"
        )
        file.chmod(0o755)


def run_command(name: str, arguments: list[str]) -> None:
    """Be that command: its output, its exit status, and ended with this process."""
    code = COMMAND
    if name == "python" and arguments[0].startswith("-"):
        os.execv(sys.executable, [sys.executable, *arguments])
    if name == "python":
        code, arguments = code_of(Path(arguments[0]).resolve()), arguments[1:]
    running = Python(code, *arguments)
    signal.signal(signal.SIGTERM, lambda *_: running.send_signal(signal.SIGTERM))
    status = running.wait(3600)
    sys.stdout.write(running.read("stdout"))
    sys.stderr.write(running.read("stderr"))
    sys.stdout.flush()
    os._exit(status % 256)


@cache
def _server() -> Path:
    """The folder of requests of the server that the environment names, or of one that is started."""
    if FOLDER in os.environ:
        return Path(os.environ[FOLDER])
    requests = Path(tempfile.mkdtemp(prefix="interpreters-"))
    os.mkfifo(requests / LINE)
    os.open(requests / LINE, os.O_RDWR)  # stays open: the server reads until this process ends
    server = subprocess.Popen([sys.executable, __file__], stdin=os.open(requests / LINE, os.O_RDONLY))
    atexit.register(shutil.rmtree, requests, ignore_errors=True)
    atexit.register(server.kill)
    return requests


# ---- In the server ----


def serve() -> dict[str, Any]:
    """Answer requests; returns in the forks, each with its request."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not READ_SETTINGS & set(sys.modules)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    for line in sys.stdin:
        if os.fork() == 0:
            folder = Path(line.strip())
            request: dict[str, Any] = json.loads((folder / REQUEST).read_text())
            _keep(folder)
            return {"folder": folder, **request}
    os._exit(0)


def _keep(folder: Path) -> None:
    """Fork once more; tell the process of the fork, wait for its end and tell that. Returns in the fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        return
    _tell(folder / "pid", pid)
    _, status = os.waitpid(pid, 0)
    _tell(folder / "returncode", os.waitstatus_to_exitcode(status))
    os._exit(0)


def _tell(file: Path, number: int) -> None:
    part = file.with_suffix(".part")
    part.write_text(str(number))
    part.rename(file)


def _become(request: dict[str, Any]) -> dict[str, Any]:
    """Take over what an interpreter is started with; the namespace to run in."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.dup2(os.open(Path(request["folder"]) / name, flags), number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["-c", *request["arguments"]]
    sys.path[:1] = ["", *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["torch"].set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1))
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    return main.__dict__


if __name__ == "__main__":
    request = serve()
    exec(compile(request["code"], "<string>", "exec"), _become(request))

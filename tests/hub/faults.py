"""Faults the test Hub can be told to show: which stage, what happens, how often."""

from __future__ import annotations

import threading
from dataclasses import dataclass

# Stages a push or a load goes through, as the server sees them.
STAGES = (
    "whoami",
    "create",
    "info",
    "validate",
    "preupload",
    "batch",
    "upload",
    "complete",
    "commit",
    "head",
    "download",
)

# Answers made without doing the work.
REFUSALS: dict[str, tuple[int, str]] = {
    "500": (500, "Internal Error - We're working hard to fix this as soon as possible!"),
    "429": (429, "We had to rate limit you. Please wait."),
    "401": (401, "Invalid credentials in Authorization header"),
    "403": (403, "Authorization error."),
    "409": (409, "Another conflicting operation is running. Please retry."),
    "412": (412, "A commit has happened since. Please refresh and try again."),
}
# "drop" closes the connection before the work; "lost" does the work and closes it before the answer;
# "truncate" keeps (or sends) only half of the bytes; "corrupt" flips one byte; "slow" takes two seconds.
KINDS = (*REFUSALS, "drop", "lost", "truncate", "corrupt", "slow")


@dataclass
class Fault:
    stage: str
    kind: str
    times: int = 1  # how many requests it hits; -1 for every one
    skip: int = 0  # how many requests of that stage pass first
    path: str | None = None  # only requests whose URL holds this
    after: str | None = None  # asleep until this stage was first served

    def __post_init__(self) -> None:
        if self.stage not in STAGES or self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.stage}/{self.kind}")


class FaultBox:
    """The faults waiting to happen, and how often each one did."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        self._served: set[str] = set()
        self.hits = 0

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._faults.append(fault)

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()
            self._served.clear()
            self.hits = 0

    def served(self, stage: str) -> None:
        with self._lock:
            self._served.add(stage)

    def take(self, stage: str, url: str) -> str | None:
        """The kind of fault this request meets, or None."""
        with self._lock:
            for fault in self._faults:
                asleep = fault.after is not None and fault.after not in self._served
                if (
                    asleep
                    or fault.stage != stage
                    or fault.times == 0
                    or (fault.path and fault.path not in url)
                ):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                self.hits += 1
                return fault.kind
        return None


def damage(kind: str | None, content: bytes) -> bytes:
    """`content` as a fault of this kind leaves it."""
    if kind == "truncate":
        return content[: len(content) // 2]
    if kind == "corrupt" and content:
        middle = len(content) // 2
        return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    return content

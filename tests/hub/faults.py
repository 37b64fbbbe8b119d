"""Faults the test Hub can be told to show: which stage, what happens, how often."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

# Answers made without doing the work. Of the other kinds, "drop" closes the connection before the work, "lost"
# does the work and closes it before the answer, "truncate" keeps (or sends) only half of the bytes, "corrupt"
# flips one byte, "slow" takes two seconds.
REFUSALS = {
    "500": (500, "Internal Error - We're working hard to fix this as soon as possible!"),
    "429": (429, "We had to rate limit you. Please wait."),
    "401": (401, "Invalid credentials in Authorization header"),
    "403": (403, "Authorization error."),
    "409": (409, "Another conflicting operation is running. Please retry."),
    "412": (412, "A commit has happened since. Please refresh and try again."),
}


@dataclass
class Fault:
    stage: str  # as in server.ROUTES
    kind: str
    times: int = 1  # how many requests it hits; -1 for every one
    skip: int = 0  # how many requests of that stage pass first
    after: str | None = None  # asleep until this stage was first served


@dataclass
class FaultBox:
    """The faults waiting to happen, and how often one did."""

    hits: int = 0
    _faults: list[Fault] = field(default_factory=list)
    _served: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()
        self._served.clear()
        self.hits = 0

    def served(self, stage: str) -> None:
        self._served.add(stage)

    def take(self, stage: str) -> str | None:
        """The kind of fault this request meets, or None."""
        with self._lock:
            for fault in self._faults:
                awake = fault.after is None or fault.after in self._served
                if not awake or fault.stage != stage or fault.times == 0:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1
                self.hits += 1
                return fault.kind
        return None


def damage(kind: str | None, content: bytes) -> bytes:
    """`content` as a fault of this kind leaves it."""
    middle = len(content) // 2
    if kind == "truncate":
        return content[:middle]
    if kind == "corrupt" and content:
        return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]
    return content

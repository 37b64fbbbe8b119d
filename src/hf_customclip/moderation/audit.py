"""The audit log: one JSON object a line for everything that was checked, whole lines only, resumed by itself.

A line is written by one call to the operating system. Where that was cut short all the same (a kill between
two pages, a power cut, a full disk), what follows the last whole line is removed when the log is next opened,
and that item counts as not yet checked.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

Key = tuple[str, ...]


class AuditLog(AbstractContextManager["AuditLog"]):
    """Appends records to a JSONL file; used as a context manager.

    Args:
        file: the log; made where missing, continued where there is one.
        key_fields: the fields of a record that say what was checked by what: a record with the same values
            in all of them need not be made again.

    Raises:
        ValueError: the file has a line that is no JSON object, so is no audit log.
    """

    def __init__(self, file: str | Path, key_fields: Iterable[str]) -> None:
        self.file, self.key_fields = Path(file), tuple(key_fields)
        self.logged: set[Key] = set()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._size = self._read_whole_lines()
            os.ftruncate(self._descriptor, self._size)
        except BaseException:
            os.close(self._descriptor)
            raise

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def has(self, record: Mapping[str, Any]) -> bool:
        """Whether a record with the same key fields is in the log."""
        return self._key(record) in self.logged

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record as a line: whole, or, where the disk is full, not at all and an OSError."""
        line = json_line(record).encode() + b"\n"
        try:
            written = 0
            while written < len(line):
                written += os.write(self._descriptor, line[written:])
        except OSError:
            os.ftruncate(self._descriptor, self._size)
            raise
        self._size += len(line)
        self.logged.add(self._key(record))

    def flush(self) -> None:
        """Bring what was appended to the disk itself."""
        os.fsync(self._descriptor)

    def _read_whole_lines(self) -> int:
        """Note what is logged; the length of the whole lines in bytes."""
        size = 0
        with self.file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    record = json.loads(line)
                    self.logged.add(self._key(record))
                except (ValueError, AttributeError):
                    raise ValueError(
                        f"'{self.file}' is no audit log: its line {number} is no JSON object. Name another file."
                    ) from None
                size += len(line)
        return size

    def _key(self, record: Mapping[str, Any]) -> Key:
        return tuple(json.dumps(record.get(name)) for name in self.key_fields)


def json_line(record: Mapping[str, Any]) -> str:
    """One line of JSON, as readable as can be: file names that are no valid text are escaped."""
    line = json.dumps(record, ensure_ascii=False)
    return line if line.isprintable() else json.dumps(record)

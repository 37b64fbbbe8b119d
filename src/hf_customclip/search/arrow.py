"""Arrow tables as files that are memory-mapped."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from .._files import replacing


def write_arrow(file: Path, table: pa.Table) -> None:
    """A file that can be memory-mapped, whole or not at all."""
    with (
        replacing(file) as name,
        pa.OSFile(str(name), "wb") as opened,
        pa.ipc.new_file(opened, table.schema) as writer,
    ):
        writer.write_table(table)


def mapped(file: Path) -> pa.Table:
    """The table in a file, memory-mapped."""
    with pa.memory_map(str(file)) as opened:
        return pa.ipc.open_file(opened).read_all()

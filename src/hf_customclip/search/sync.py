"""Bringing a collection in line with a source: what is new or changed is embedded, what is gone is dropped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from .embedding import embed_source, processes
from .encoder import Encoder
from .rows import Rows, rows_table
from .sources import Images, open_source

NAMES_SHOWN = 20


@dataclass(frozen=True)
class Changes:
    """What a run did to a collection.

    Attributes:
        added, changed, unchanged, removed: how many images.
        unreadable: why an image could not be read, by its id; it is not in the collection.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        counts = (self.added, self.changed, self.unchanged, self.removed)
        text = "{} added, {} changed, {} unchanged, {} removed".format(*(f"{count:,}" for count in counts))
        if self.unreadable:
            shown = [f"{name} ({why})" for name, why in list(self.unreadable.items())[:NAMES_SHOWN]]
            more = ["…"] if len(self.unreadable) > NAMES_SHOWN else []
            text += f"; {len(self.unreadable):,} cannot be read: {'; '.join(shown + more)}"
        return text


@dataclass(frozen=True)
class Plan:
    """What a source asks of a collection, and the vectors that it lacked.

    Attributes:
        rows: new and changed images, with vectors.
        gone: ids to drop: those that the source has no more, and those that cannot be read now.
        changes: the same in numbers.
    """

    rows: pa.Table
    gone: list[str]
    changes: Changes


def plan(
    encoder: Encoder,
    images: Images,
    known: Mapping[str, tuple[str | None, str]],
    vectors_of: Callable[[list[str]], np.ndarray],
    *,
    shards: Path | None = None,
    drop_gone: bool = True,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Plan:
    """Compare, embed, and say what to do.

    Args:
        known: path and state of what the collection holds, by id.
        vectors_of: vectors of ids in it, for files that only moved.
        drop_gone: whether what the source does not have is to go.
        shards, batch_size, num_workers: as in `embed_source`.
    """
    source = open_source(images)
    ids, paths, states = (source.column(name) for name in ("id", "path", "state"))
    stale = [n for n, name in enumerate(ids) if name not in known or known[name][1] != states[n]]
    kept = [n for n, name in enumerate(ids) if name in known and known[name][1] == states[n]]
    moved = [n for n in kept if known[ids[n]][0] != paths[n]]
    made = embed_source(encoder, source, stale, shards, batch_size, num_workers)
    vectors = np.concatenate([made.vectors, vectors_of([ids[n] for n in moved])])
    numbers = np.concatenate([made.numbers, np.array(moved, dtype=np.int64)])
    present = set(ids)
    gone = [name for name in known if name in made.unreadable or (drop_gone and name not in present)]
    added = sum(ids[n] not in known for n in made.numbers)
    changes = Changes(
        added=added,
        changed=len(made.numbers) - added,
        unchanged=len(kept),
        removed=len(gone),
        unreadable=made.unreadable,
    )
    return Plan(rows_table(source.rows.take(pa.array(numbers)), vectors), gone, changes)


def bring_in_line(
    encoder: Encoder,
    images: Images,
    known: Mapping[str, tuple[str | None, str]],
    vectors_of: Callable[[list[str]], np.ndarray],
    write: Callable[[Plan], None],
    *,
    shards: Path,
    batch_size: int,
    num_workers: int,
) -> Changes:
    """Plan, let one process write, and forget the shards; every process goes on when all is done."""
    wanted = plan(
        encoder, images, known, vectors_of, shards=shards, batch_size=batch_size, num_workers=num_workers
    )
    if processes().is_main_process:
        write(wanted)
        shutil.rmtree(shards, ignore_errors=True)
    processes().wait_for_everyone()
    return wanted.changes


def known_states(rows: Rows) -> Mapping[str, tuple[str | None, str]]:
    """Path and state of every image, by id."""
    there = rows.compacted().table
    columns = (there[name].to_pylist() for name in ("id", "path", "state"))
    return {name: (path, state) for name, path, state in zip(*columns, strict=True)}

"""Feature shards on a local disk or any fsspec address: safetensors files, and one manifest written last.

    OUT/plan.json                   what is computed, by which towers, cut into how many items; written first
    OUT/00012-0000.safetensors      image_features (rows, width), text_features (captions, width),
                                    first (rows + 1,) where each row's captions begin, image_ids (rows,)
    OUT/work/00012.json             that item 12 is done, and what is in it; gone when all are
    OUT/manifest.json               every shard with its counts

An item depends on its rows alone, so whoever computes it, however often, writes the same bytes: a run that was
killed goes on with the items that have no record, and no lock is needed, which object stores do not have.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import safe_open

from .._files import replacing

FORMAT = 1
PLAN, MANIFEST, WORK = "plan.json", "manifest.json", "work"


@dataclass(frozen=True)
class Shard:
    """One shard's tensors (see the top of this file)."""

    image_features: torch.Tensor
    text_features: torch.Tensor
    first: torch.Tensor
    image_ids: torch.Tensor


class ShardFolder:
    """Whole files under one address, each there entirely or not at all.

    Args:
        address: a folder, or `s3://…`, `hf://…`, `memory://…`: what fsspec knows.
    """

    def __init__(self, address: str) -> None:
        self.address = str(address)
        self.fs, self.root = fsspec.core.url_to_fs(self.address)
        self.is_local = isinstance(self.fs, LocalFileSystem)

    def path(self, name: str) -> str:
        """As the file system calls it."""
        return f"{self.root.rstrip('/')}/{name}"

    def write(self, name: str, content: bytes) -> None:
        """Whole or not at all: object stores do so by themselves."""
        path = self.path(name)
        self.fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        if not self.is_local:
            self.fs.pipe_file(path, content)
            return
        with replacing(Path(path)) as partial:
            partial.write_bytes(content)

    def write_json(self, name: str, value: Any) -> None:
        """As `write`."""
        self.write(name, (json.dumps(value, indent=1) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """None where it is not there."""
        try:
            return json.loads(self.fs.cat_file(self.path(name)))
        except FileNotFoundError:
            return None

    def write_shard(self, name: str, shard: Shard) -> None:
        """As a safetensors file."""
        self.write(name, safetensors.torch.save(dict(vars(shard)), {"format": "pt"}))

    def read_shard(self, name: str) -> Shard:
        """Memory-mapped from a local disk; read whole from elsewhere."""
        if self.is_local:
            with safe_open(self.path(name), "pt") as file:
                return Shard(**{key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        return Shard(**safetensors.torch.load(self.fs.cat_file(self.path(name))))

    def records(self) -> set[int]:
        """The items that are done."""
        try:
            names = self.fs.ls(self.path(WORK), detail=False)
        except FileNotFoundError:
            return set()
        found = [name.rsplit("/", 1)[-1] for name in names]
        return {int(name.removesuffix(".json")) for name in found if name.endswith(".json")}

    def finish(self, plan: dict[str, Any]) -> dict[str, Any] | None:
        """Write the manifest if every item is done, and clear their records away; None while some are not."""
        if (manifest := self.read_json(MANIFEST)) is not None:
            return manifest
        if len(self.records()) < plan["items"]:
            return None
        records = [self.read_json(f"{WORK}/{item:05d}.json") for item in range(plan["items"])]
        if any(record is None for record in records):  # another process has just cleared them away
            return self.read_json(MANIFEST)
        shards = [shard for record in records for shard in record["shards"]]
        manifest = {
            **plan,
            "rows": sum(shard["rows"] for shard in shards),
            "captions": sum(shard["captions"] for shard in shards),
            "unreadable": sum(record["unreadable"] for record in records),
            "unreadable_examples": [name for record in records for name in record["examples"]][:20],
            "shards": shards,
        }
        self.write_json(MANIFEST, manifest)
        with suppress(FileNotFoundError):  # another process is clearing them away, too
            self.fs.rm(self.path(WORK), recursive=True)
        return manifest

"""Features on a local disk or any fsspec address: safetensors files, and one manifest written last.

    OUT/plan.json                   what is computed, by which towers, cut into how many items; written first
    OUT/00012-0000.safetensors      a shard: what item 12 gave, or the first so many rows of it
    OUT/work/00012.json             that item 12 is done, and what is in it; gone when all are
    OUT/manifest.json               every shard with its counts and its checksum

An item depends on its rows alone, so whoever computes it, however often, writes the same bytes: a run that was
killed goes on with the items that have no record, and no lock is needed, which object stores do not have.

There are two kinds. Of a stream (`shard_extraction.py`), shards hold both towers' outputs as `Shard` says. Of a listing
(`store.py`), they hold one tower's: image_features or text_features (rows, width), and numbers (rows,): which of the
distinct images or captions each row is of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
import safetensors.torch
import torch
from fsspec.implementations.local import LocalFileSystem
from safetensors import safe_open

from .._digests import digest, digest_of_json
from .._files import replacing

FORMAT = 2
PLAN, MANIFEST, WORK = "plan.json", "manifest.json", "work"
CHECKSUM = "manifest_checksum"
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
FEATURES_OF = {"vision": "image_features", "text": "text_features"}
EXAMPLES = 20


@dataclass(frozen=True)
class Shard:
    """The tensors of a stream's shard.

    Attributes:
        image_features: (rows, width).
        text_features: (captions, width).
        first: (rows + 1,) where each row's captions begin.
        image_ids: (rows,) a number for each image.
        caption_ids: (captions,) the same number for equal captions; None in shards of format 1.
    """

    image_features: torch.Tensor
    text_features: torch.Tensor
    first: torch.Tensor
    image_ids: torch.Tensor
    caption_ids: torch.Tensor | None = None


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

    # ---- Files ----

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
        """None where it is not there, or broken."""
        try:
            return json.loads(self.fs.cat_file(self.path(name)))
        except (FileNotFoundError, ValueError):
            return None

    def write_tensors(self, name: str, tensors: Mapping[str, torch.Tensor]) -> str:
        """As a safetensors file; its checksum."""
        content = safetensors.torch.save(dict(tensors), {"format": "pt"})
        self.write(name, content)
        return digest(content)

    def read_tensors(self, name: str) -> dict[str, torch.Tensor]:
        """Memory-mapped from a local disk; read whole from elsewhere."""
        if self.is_local:
            with safe_open(self.path(name), "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return safetensors.torch.load(self.fs.cat_file(self.path(name)))

    def checksum(self, name: str) -> str | None:
        """Of a file as it stands there; None where it is gone."""
        try:
            return digest(self.fs.cat_file(self.path(name)))
        except FileNotFoundError:
            return None

    # ---- Shards and records ----

    def write_shard(
        self, item: int, number: int, tensors: Mapping[str, torch.Tensor], **about: Any
    ) -> dict[str, Any]:
        """One of an item's shards; its entry in the record and the manifest, `about` among it."""
        name = f"{item:05d}-{number:04d}.safetensors"
        return {"name": name, "checksum": self.write_tensors(name, tensors), **about}

    def record(self, item: int, shards: list[dict[str, Any]], unreadable: Sequence[str]) -> None:
        """That an item is done, in these shards and without what could not be read."""
        examples = list(unreadable[:EXAMPLES])
        record = {"shards": shards, "unreadable": len(unreadable), "examples": examples}
        self.write_json(_record(item), record)

    def records(self) -> set[int]:
        """The items that are done."""
        try:
            names = self.fs.ls(self.path(WORK), detail=False)
        except FileNotFoundError:
            return set()
        found = [name.rsplit("/", 1)[-1] for name in names]
        return {int(name.removesuffix(".json")) for name in found if name.endswith(".json")}

    def finish(
        self, plan: dict[str, Any], counted: Sequence[str] = ("rows", "captions")
    ) -> dict[str, Any] | None:
        """Write the manifest if every item is done, and clear their records away; None while some are not.

        Args:
            plan: what the manifest begins with; of so many `items`.
            counted: which of the shards' numbers are added up.
        """
        if (manifest := self.read_json(MANIFEST)) is not None:
            return manifest
        if len(self.records()) < plan["items"]:
            return None
        records = {item: self.read_json(_record(item)) for item in range(plan["items"])}
        if broken := [item for item, record in records.items() if record is None]:
            self._remove(
                *map(_record, broken)
            )  # by a power cut, unless another process has just cleared them away
            return self.read_json(MANIFEST)
        shards = [shard for record in records.values() for shard in record["shards"]]
        examples = [name for record in records.values() for name in record["examples"]]
        manifest = {
            **plan,
            **{name: sum(shard[name] for shard in shards) for name in counted},
            "unreadable": sum(record["unreadable"] for record in records.values()),
            "unreadable_examples": examples[:EXAMPLES],
            "shards": shards,
        }
        manifest[CHECKSUM] = digest_of_json(manifest)
        self.write_json(MANIFEST, manifest)
        self._remove(WORK)
        return manifest

    def _remove(self, *names: str) -> None:
        for name in names:
            with suppress(OSError):  # another process is at it, too
                self.fs.rm(self.path(name), recursive=True)


def _record(item: int) -> str:
    return f"{WORK}/{item:05d}.json"


def is_intact(manifest: Any) -> bool:
    """Whether a manifest is there, and as it was written."""
    if not isinstance(manifest, dict):
        return False
    content = {name: value for name, value in manifest.items() if name != CHECKSUM}
    return digest_of_json(content) == manifest.get(CHECKSUM)

"""Vectors and metadata as one Parquet file, for whatever else people search with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .._files import replacing
from .approximate import matrix
from .encoder import Encoder
from .index import Changes, ImageIndex
from .sources import Images
from .table import ModelName, VectorTable, with_vectors

MODEL_KEY = b"hf_customclip_model"


def embed_to_parquet(
    model: Any,
    processor: Any,
    images: Images,
    file: str | os.PathLike[str],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
) -> Changes:
    """Write `id`, `path`, `state`, metadata and `vector` (L2-normalised, a list of float32) of every image.

    A file that is there is brought up to date: what has not changed is not embedded again. A run that was
    killed is taken up again, and several processes may share the work, as in `ImageIndex.build`.

    Raises:
        ValueError: the file is another model's, or none of ours.
    """
    from ..inference.encode import process_state

    encoder, path = Encoder(model, processor), Path(file)
    made_by = encoder.describe()
    scratch = path.with_name(f".{path.name}.embedding-{made_by.digest}")
    state = process_state()
    if state.is_main_process:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = _read(path, made_by) if path.exists() else iter(())
        if not scratch.exists():
            table = VectorTable.open_or_create(scratch, made_by)
            for rows in there:
                table.put(rows)
    state.wait_for_everyone()
    index = ImageIndex(VectorTable.open_or_create(scratch, made_by), encoder)
    changes = index.update(images, batch_size=batch_size, num_workers=num_workers)
    if state.is_main_process:
        write_parquet(index, path)
        shutil.rmtree(scratch)
    state.wait_for_everyone()
    return changes


def write_parquet(index: ImageIndex, file: str | os.PathLike[str]) -> None:
    """Write an index's rows, whole or not at all; the model stands in the file's own metadata."""
    width = index.made_by.width
    columns = [*index.schema, ("state", pa.string()), ("vector", pa.list_(pa.float32(), width))]
    schema = pa.schema(columns)
    schema = schema.with_metadata({MODEL_KEY: json.dumps(asdict(index.made_by))})
    with replacing(Path(file)) as name, pq.ParquetWriter(name, schema) as writer:
        for batch in index.table.batches(schema.names):
            rows = pa.Table.from_batches([batch])
            vectors = matrix(rows["vector"])[:, :width]
            values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), width)
            writer.write_table(rows.drop_columns(["vector"]).append_column("vector", values).cast(schema))


def _read(file: Path, made_by: ModelName) -> Iterator[pa.Table]:
    """The file's rows as a table takes them, once its model has been checked."""
    try:
        opened = pq.ParquetFile(file)
        maker = ModelName(**json.loads(opened.schema_arrow.metadata[MODEL_KEY]))
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is there and does not hold vectors of ours ({error}): name another."
        ) from None
    made_by.check_made(maker, str(file))
    batches = (pa.Table.from_batches([batch]) for batch in opened.iter_batches(batch_size=32_768))
    return (with_vectors(rows.drop_columns(["vector"]), matrix(rows["vector"])) for rows in batches)

"""Vectors and metadata as one Parquet file, for whatever else people search with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .._files import replacing
from .encoder import Encoder, ModelName
from .rows import BLOCK_ROWS, Rows, empty_table, rows_table
from .sources import Images
from .sync import Changes, bring_in_line, known_states

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
    encoder, path = Encoder(model, processor), Path(file)
    made_by = encoder.describe()
    rows = _read(path, made_by) if path.exists() else Rows(empty_table(encoder.width))
    shards = path.with_name(f".{path.name}.embedding-{made_by.digest}")
    path.parent.mkdir(parents=True, exist_ok=True)
    return bring_in_line(
        encoder,
        images,
        known_states(rows),
        rows.vectors_of,
        lambda wanted: write_parquet(path, made_by, rows.without(wanted.gone).with_rows(wanted.rows)),
        shards=shards,
        batch_size=batch_size,
        num_workers=num_workers,
    )


def write_parquet(file: Path, made_by: ModelName, rows: Rows) -> None:
    """Write rows, whole or not at all; the model stands in the file's own metadata."""
    table = rows.compacted().table
    place = table.schema.get_field_index("vector")
    schema = table.schema.set(place, pa.field("vector", pa.list_(pa.float32(), rows.width)))
    schema = schema.with_metadata({MODEL_KEY: json.dumps(made_by.to_dict())})
    with replacing(file) as name, pq.ParquetWriter(name, schema) as writer:
        for first in range(0, len(table), BLOCK_ROWS):
            part = table.slice(first, BLOCK_ROWS)
            values = [chunk.flatten().to_numpy().astype(np.float32) for chunk in part["vector"].chunks]
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values)), rows.width)
            writer.write_table(part.set_column(place, "vector", vectors).cast(schema))


def _read(file: Path, made_by: ModelName) -> Rows:
    try:
        table = pq.read_table(file)
        maker = ModelName(**json.loads(table.schema.metadata[MODEL_KEY]))
    except (pa.ArrowInvalid, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is there and does not hold vectors of ours ({error}): name another."
        ) from None
    made_by.check_made(maker, str(file))
    values = [np.zeros(0), *(chunk.flatten().to_numpy() for chunk in table["vector"].chunks)]
    rows = table.drop_columns(["vector"]).replace_schema_metadata(None)
    return Rows(rows_table(rows, np.concatenate(values).reshape(-1, made_by.width)))

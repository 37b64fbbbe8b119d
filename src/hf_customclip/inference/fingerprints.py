"""Digests: of bytes at memory speed (XXH3, 128 bits), of small JSON values, of a tower's weights."""

from __future__ import annotations

import json
from typing import Any

import torch
import xxhash
from torch import nn


def digest(data: Any) -> str:
    """32 hexadecimal digits for anything with a buffer."""
    return xxhash.xxh3_128_hexdigest(data)


def digest_of_json(value: Any) -> str:
    """The same for equal values, whatever the order of their dictionaries."""
    return digest(json.dumps(value, sort_keys=True, default=str).encode())


def weights_digest(module: nn.Module) -> str:
    """Of every parameter and buffer: name, type, shape and bytes. Half a gigabyte takes about 0.1 s."""
    hasher = xxhash.xxh3_128()
    for name, tensor in sorted(module.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            values = tensor.detach().to("cpu", memory_format=torch.contiguous_format).reshape(-1)
            hasher.update(values.contiguous().view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def weights_state(module: nn.Module) -> tuple[tuple[int, int], ...]:
    """Cheap sign that the weights may have changed: where every tensor lies, and how often it was written."""
    tensors = [*module.parameters(), *module.buffers()]
    return tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)

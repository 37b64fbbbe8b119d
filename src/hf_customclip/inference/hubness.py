"""Hubness correction: some items are near to everything, and stand among the answers to most queries.

Cross-domain similarity local scaling (CSLS: Conneau et al. 2018, "Word Translation Without Parallel Data", section
2.3) takes from each candidate's cosine half the mean of its highest cosines. Here these are cosines with a bank of
*training* embeddings of the other kind: one number for each stored item, and no query is looked at. (The other half
of CSLS, the queries' own, changes no ranking.) It is for ranking alone: cosines that people read, thresholds and
zero-shot scores stay as they are.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.utils import cached_file

from .._files import replacing

BANK_FILE = "hubness_bank.safetensors"
NEIGHBOURS = 10
ROWS_AT_ONCE = 4096


def hubness_bias(embeds: Tensor, bank: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """Half the mean of each row's `k` highest cosines with the bank: `[n]`, float32.

    For a ranking, subtract it from the cosines of that row. In an index, which ranks by inner product, it is one
    more dimension: store `torch.cat([embeds, -bias[:, None]], 1)` and ask with a 1 appended to the query
    (`append_bias`, `append_one`).

    Args:
        embeds: `[n, d]`, L2-normalised candidates: images, or texts.
        bank: `[m, d]`, L2-normalised training embeddings of the *other* kind: what candidates are asked for with.
        k: how many neighbours; all of a smaller bank.
    """
    bank = cut_bank(bank.to(embeds.device), embeds.shape[1])
    parts = [bias_of_rows(rows.float(), bank, k) for rows in embeds.split(ROWS_AT_ONCE)]
    return torch.cat(parts) if parts else embeds.new_zeros(0, dtype=torch.float32)


def cut_bank(bank: Tensor, width: int) -> Tensor:
    """The bank for embeddings that are cut to their first numbers: its own first ones, normalised, float32."""
    return F.normalize(bank.float()[:, :width], dim=-1)


def bias_of_rows(embeds: Tensor, bank: Tensor, k: int = NEIGHBOURS) -> Tensor:
    """`hubness_bias` of as many rows as fit at once, against a bank of their width."""
    return (embeds @ bank.T).topk(min(k, len(bank)), dim=1).values.mean(1) / 2


def append_bias(embeds: Tensor, bias: Tensor) -> Tensor:
    """Candidates `[n, d]` to `[n, d + 1]`: their inner product with `append_one(query)` is cosine minus bias."""
    return torch.cat([embeds.float(), -bias[:, None].float()], dim=1)


def append_one(queries: Tensor) -> Tensor:
    """Queries `[n, d]` to `[n, d + 1]`, to ask what `append_bias` has made."""
    return F.pad(queries.float(), (0, 1), value=1.0)


@dataclass(frozen=True)
class HubnessBank:
    """Training embeddings, L2-normalised: of images `[m, d]` and of captions `[n, d]`, a few thousand each."""

    image_embeds: Tensor
    text_embeds: Tensor

    def image_bias(self, image_embeds: Tensor, k: int = NEIGHBOURS) -> Tensor:
        """Of images that are searched by text: `[n]`."""
        return hubness_bias(image_embeds, self.text_embeds, k)

    def text_bias(self, text_embeds: Tensor, k: int = NEIGHBOURS) -> Tensor:
        """Of texts that are searched by image: `[n]`."""
        return hubness_bias(text_embeds, self.image_embeds, k)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write it beside a model, in half precision: 4,000 + 4,000 embeddings 512 wide are 8 MB."""
        file = Path(folder) / BANK_FILE
        tensors = {"image_embeds": self.image_embeds, "text_embeds": self.text_embeds}
        with replacing(file) as name:
            save_file({key: rows.cpu().half().contiguous() for key, rows in tensors.items()}, name)
        return file

    @classmethod
    def load(cls, name: str | os.PathLike[str]) -> HubnessBank | None:
        """The bank of a model's folder or Hub id; None where it has none."""
        file = cached_file(
            name,
            BANK_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if file is None:
            return None
        return cls(**{key: F.normalize(rows.float(), dim=-1) for key, rows in load_file(file).items()})

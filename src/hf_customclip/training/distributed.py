"""The contrastive losses, and the rows of every process that they compare with."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from ..modeling.losses_custom_clip import sigmoid_contrastive_loss, softmax_contrastive_loss

__all__ = ["gather_rows", "row_counts", "sigmoid_contrastive_loss", "softmax_contrastive_loss"]


def row_counts(rows: torch.Tensor) -> list[int]:
    """How many rows each process holds, in the order of the processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return [len(rows)]
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    return [int(count) for count in counts]


def gather_rows(rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
    """Every process's rows, one after the other; `counts` as `row_counts` gives them.

    The gradient of a process's own rows is the sum of what all processes' losses ask of them. Together with
    DistributedDataParallel's mean over processes that is the gradient of the mean loss, unscaled.
    """
    return rows if len(counts) == 1 else _GatherRows.apply(rows, counts)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, counts: list[int]) -> torch.Tensor:
        ctx.offset, ctx.length = sum(counts[: dist.get_rank()]), len(rows)
        # Gloo and NCCL gather equal shapes only.
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.offset : ctx.offset + ctx.length], None

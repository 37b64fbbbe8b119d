"""Gradient caching (Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup").

A contrastive loss sees the towers through the embeddings alone. So a batch is embedded in chunks without a
graph, the loss gives the gradient at the embeddings, and a second pass, chunk by chunk, carries it into the
weights: the batch's very gradient, with the activations of one chunk. It costs one more forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import get_device_states, set_device_states

Inputs = dict[str, torch.Tensor]
# From the image and text embeddings of a whole batch to its loss.
BatchLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def split_batch(inputs: Inputs, chunks: int) -> list[Inputs]:
    """The batch in so many chunks of nearly equal size; images and texts, of which there may be more, each by
    themselves, as a chunk is only embedded."""
    parts = {name: torch.tensor_split(rows, chunks) for name, rows in inputs.items()}
    return [{name: rows[i] for name, rows in parts.items()} for i in range(chunks)]


def cached_backward(
    model: nn.Module,
    chunks: list[Inputs],
    batch_loss: BatchLoss,
    *,
    temperature: list[nn.Parameter],
    backward: Callable[[torch.Tensor], Any],
    forward_context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    factor: float = 1.0,
) -> torch.Tensor:
    """The gradient of `factor` times the whole batch's loss, added to every parameter's; the loss itself.

    Args:
        model: called with one chunk at a time; gives `image_embeds` and `text_embeds`.
        batch_loss: the loss of all rows; what it needs of other processes it fetches itself.
        temperature: the parameters that `batch_loss` uses directly.
        backward: `accelerator.backward`, or `torch.Tensor.backward`.
        forward_context: entered for every forward pass, such as autocast.
        no_sync: entered for all chunks but the last, so that processes exchange gradients once.
    """
    states, embeds = [], []
    for chunk in chunks:
        states.append(_random_state(chunk))
        with torch.no_grad(), forward_context():
            outputs = model(**chunk)
        embeds.append((outputs.image_embeds, outputs.text_embeds))
    images, texts = (torch.cat(parts).detach().requires_grad_() for parts in zip(*embeds, strict=True))
    loss = batch_loss(images, texts)
    image_gradient, text_gradient, *rest = torch.autograd.grad(loss, [images, texts, *temperature])
    gradients = zip(
        image_gradient.split([len(part) for part, _ in embeds]),
        text_gradient.split([len(part) for _, part in embeds]),
        strict=True,
    )
    with _statistics_kept(model):
        for i, (chunk, wanted) in enumerate(zip(chunks, gradients, strict=True)):
            last = i == len(chunks) - 1
            _set_random_state(states[i])
            # The backward pass too: it is where gradients are exchanged.
            with nullcontext() if last else no_sync():
                with forward_context():
                    outputs = model(**chunk)
                terms = [(outputs.image_embeds, wanted[0]), (outputs.text_embeds, wanted[1])]
                if last:
                    terms += zip(temperature, rest, strict=True)
                # Its gradient at each embedding is the one wanted there.
                backward(factor * sum((value * gradient).sum() for value, gradient in terms))
    return loss.detach()


def _random_state(chunk: Inputs) -> tuple[torch.Tensor, Any]:
    return torch.get_rng_state(), get_device_states(*chunk.values())


def _set_random_state(state: tuple[torch.Tensor, Any]) -> None:
    torch.set_rng_state(state[0])
    set_device_states(*state[1])


@contextmanager
def _statistics_kept(model: nn.Module) -> Iterator[None]:
    """BatchNorm that is trained has counted each chunk in the first pass; it must not count it twice."""
    counting = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and module.training
        and module.track_running_stats
    ]
    for module in counting:
        module.track_running_stats = False
    try:
        yield
    finally:
        for module in counting:
            module.track_running_stats = True

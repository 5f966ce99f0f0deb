"""Several processes as one: every process computes its share of a batch, and all of them take the same step.

Gradients are averaged here, not by DistributedDataParallel: an objective calls the parts of its model in
whatever way it likes, and a part that no sample of this process went through is no special case.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

BUCKET = 2**24
"""Numbers that are sent at once."""


def share_weights(module: nn.Module) -> None:
    """Give every process the main process's parameters and buffers."""
    if _alone():
        return
    with torch.no_grad():
        for value in module.state_dict().values():
            sent = value.contiguous()
            dist.broadcast(sent, src=0)
            value.copy_(sent)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each ``grad`` by its mean over the processes, where a process without one counts as zero.

    A parameter that has none in any process keeps none, so that the optimiser leaves it alone as it would in
    a single process.
    """
    if _alone() or not parameters:
        return
    device = parameters[0].device
    used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=device)
    dist.all_reduce(used)
    bucket: list[Tensor] = []
    size = 0
    for parameter, count in zip(parameters, used.tolist(), strict=True):
        if not count:
            continue
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        bucket.append(parameter.grad)
        size += parameter.numel()
        if size >= BUCKET:
            _average(bucket)
            bucket, size = [], 0
    if bucket:
        _average(bucket)


def _average(gradients: list[Tensor]) -> None:
    joined = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(joined)
    joined /= dist.get_world_size()
    for gradient, mean in zip(gradients, joined.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1

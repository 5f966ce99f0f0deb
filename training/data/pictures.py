"""What training does to pictures on their way into a network, and networks run over many of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from idpersona.pixels import to_tensor


def jitter(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Small random changes of brightness, contrast, colour and sharpness, uint8 [H, W, 3]."""
    value = picture.astype(np.float32)
    if rng.random() < 0.3:
        side = int(rng.integers(24, 56))
        small = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        value = cv2.resize(small, picture.shape[1::-1], interpolation=cv2.INTER_LINEAR).astype(np.float32)
    gain = rng.uniform(0.75, 1.3) * rng.uniform(0.92, 1.08, size=3)
    mean = value.mean()
    value = (value - mean) * gain + mean + rng.uniform(-20, 20)
    return value.clip(0, 255).astype(np.uint8)


@torch.inference_mode()
def run_over(
    network: nn.Module, rows: Sequence[int] | np.ndarray, picture: Callable[[int], np.ndarray]
) -> Tensor:
    """Outputs float32 [rows, D], on the CPU, of ``network`` for every ``picture(row)``, uint8 [H, W, 3].

    No more than 128 pictures are in memory at a time.
    """
    device = next(network.parameters()).device
    outputs = []
    for start in range(0, len(rows), 128):
        batch = to_tensor([picture(int(row)) for row in rows[start : start + 128]])
        outputs.append(network(batch.to(device)).float().cpu())
    return torch.cat(outputs) if outputs else torch.empty(0, 0)

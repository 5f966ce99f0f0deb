"""Structure distance: has an edit kept the layout of its photo (arXiv:2201.00424, as PIE-Bench measures it).

The keys of the last self-attention of DINO ViT-B/8 (arXiv:2104.14294), all heads side by side, the class
token's among them, are compared with each other: the cosines [tokens, tokens] say which places of a picture
belong together, whatever they look like. The distance is the mean squared difference of two such tables.

Published figures come from an evaluator that gives the network colours from 0 to 255 where it expects 0 to 1,
before ImageNet's mean and spread are taken off, and scales pictures down bilinearly without smoothing them
(torchvision 0.13 on tensors). This does the same; figures taken otherwise cannot be compared with them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from idpersona.encoders.pretrained import load_strictly
from idpersona.encoders.vit import IMAGENET
from idpersona.errors import BadInput

NAME = "dino-vitb8"


class StructureDistance:
    """The distance of two RGB pictures by a ``ViTModel`` of transformers; 0 for equal ones."""

    def __init__(self, model: Any):
        self.model = model
        # transformers has called them by both names.
        layers = [m for name, m in model.named_modules() if name.rpartition(".")[2] in ("k_proj", "key")]
        if not layers:
            raise BadInput(f"{type(model).__name__} has no self-attention whose keys could be compared")
        self._keys = layers[-1]

    @torch.inference_mode()
    def similarities(self, picture: Image.Image) -> Tensor:
        """Cosines of the last layer's keys, float32 [tokens, tokens] on the model's device."""
        side = int(self.model.config.image_size)
        pixels = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)[None]
        values = pixels.to(self.model.device, torch.float32)
        values = F.interpolate(values, size=(side, side), mode="bilinear", align_corners=False)
        mean, spread = (torch.tensor(part).view(1, 3, 1, 1).to(values) for part in IMAGENET)
        seen: list[Tensor] = []

        def keep(_module: Any, _given: Any, keys: Tensor) -> None:
            seen.append(keys)

        hook = self._keys.register_forward_hook(keep)
        try:
            self.model((values - mean) / spread)
        finally:
            hook.remove()
        keys = seen[0][0].float()
        length = keys.norm(dim=1, keepdim=True)
        return keys @ keys.T / (length @ length.T).clamp(min=1e-8)

    def __call__(self, a: Image.Image, b: Image.Image) -> float:
        """Mean squared difference of the two tables; pictures of any sizes, each squeezed to the model's."""
        return float((self.similarities(a) - self.similarities(b)).square().mean())


def load_structure(
    folder: str | Path | None = None, *, device: str | torch.device = "cpu"
) -> StructureDistance:
    """The distance by the ViT in a folder; None takes ``dino-vitb8`` of the registry.

    Raises:
        MissingWeights: it is not here.
        CheckpointError: the folder holds no ``ViTModel``; its keys are named.
    """
    from transformers import ViTModel

    from idpersona.registry import locate

    place = locate(NAME) if folder is None else Path(folder)
    model = load_strictly(ViTModel, place, unread=("pooler.",), add_pooling_layer=False)
    return StructureDistance(model.to(device))

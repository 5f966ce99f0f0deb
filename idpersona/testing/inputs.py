"""Arguments of pipeline calls that fit the tiny components."""

from __future__ import annotations

from typing import Any

import torch

from idpersona.errors import UnknownName
from idpersona.testing import KINDS
from idpersona.testing.instantid import tiny_identity_inputs


def tiny_inputs(kind: str, device: str | torch.device = "cpu", seed: int = 0) -> dict[str, Any]:
    """Keyword arguments for one call of the pipeline of ``kind``: 2 steps, one 64×64 picture as an array.

    Args:
        kind: as for ``tiny_components``.
        device: of the random generator (a CPU generator is used for ``mps``, which has none).
        seed: of the start noise. What identifies the person does not depend on it.

    Returns:
        prompt, generator, num_inference_steps, guidance_scale, output_type ``np``; for the InstantID kinds
        also image (keypoint picture, float32 [1, 3, 64, 64] in [0, 1]) and image_embeds (float32 [1, 512]).

    Raises:
        UnknownName: ``kind`` is not known.
    """
    if kind not in KINDS:
        raise UnknownName("kind of tiny model", kind, KINDS)
    place = "cpu" if torch.device(device).type == "mps" else device
    inputs: dict[str, Any] = {
        "prompt": "a photo of a smiling man",
        "generator": torch.Generator(device=place).manual_seed(seed),
        "num_inference_steps": 2,
        "guidance_scale": 5.0,
        "output_type": "np",
    }
    if kind.startswith("instantid-"):
        inputs |= tiny_identity_inputs()
    return inputs

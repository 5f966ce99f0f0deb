"""The subject of a photo by a segmentation model: the object that fills most of its middle.

Mask2Former (Cheng et al., arXiv:2112.01527) trained on COCO, in the classes of ``transformers``; of its
panoptic labels only things count. Any model of
``AutoModelForUniversalSegmentation`` with the same answers will do.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

from idpersona.encoders.vit import IMAGENET
from idpersona.errors import BadInput, MissingWeights, first_line

SIDE = 384
"""Width and height in pixels at which photos are looked at."""
SURE = 0.5
"""Least probability of an object."""
COCO_PANOPTIC, COCO_THINGS = 133, 80
"""Number of COCO's panoptic classes, and of the things among them, which come first (not sky, grass …)."""
MIDDLE = 0.35
"""Spread of the weight that falls from the middle of a photo to its border, as a part of its side."""


@lru_cache(maxsize=1)
def load_segmenter(folder: str) -> Any:
    """The model of a folder; MissingWeights when it cannot be loaded."""
    from transformers import AutoModelForUniversalSegmentation

    try:
        model: Any = AutoModelForUniversalSegmentation.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers and safetensors share no error type for a damaged folder
        raise MissingWeights(f"segmentation model in {folder}: {first_line(error)}") from error
    return model.float().eval().requires_grad_(False)


@torch.inference_mode()
def segment_subject(photo: Image.Image, folder: str | Path | None = None) -> np.ndarray:
    """The mask of the subject, float32 [height, width], 1 on it and 0 beside it.

    Args:
        photo: RGB.
        folder: of the model; None takes ``mask2former`` of the registry.

    Raises:
        MissingWeights: the model is not here.
        BadInput: nothing was found; says how to give a mask instead.
    """
    from idpersona.registry import locate

    model = load_segmenter(str(locate("mask2former") if folder is None else folder))
    mean, spread = (torch.tensor(part).view(1, 3, 1, 1) for part in IMAGENET)
    small = photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float() / 255
    found = model(pixel_values=((pixels - mean) / spread).to(model.device))
    # The last class means nothing at all.
    classes = found.class_queries_logits[0].softmax(-1)[:, :-1]
    things = classes[:, :COCO_THINGS] if classes.shape[1] == COCO_PANOPTIC else classes
    sure = things.amax(-1)
    masks = found.masks_queries_logits[0].sigmoid()
    steps = [(torch.arange(n) + 0.5) / n - 0.5 for n in masks.shape[-2:]]
    near = torch.exp(-(steps[0][:, None].square() + steps[1][None].square()) / (2 * MIDDLE**2))
    covered = ((masks > 0.5) * near.to(masks)).sum(dim=(1, 2)) / near.sum()
    best = int(torch.where(sure > SURE, covered, torch.zeros_like(covered)).argmax())
    if sure[best] <= SURE or covered[best] == 0:
        raise BadInput(
            "the segmentation model found no subject in the photo: give a mask of its size (--mask MASK.png)"
        )
    full = F.interpolate(masks[best][None, None], size=(photo.height, photo.width), mode="bilinear")
    return (full[0, 0] > 0.5).float().cpu().numpy()

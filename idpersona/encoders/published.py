"""Which weights, framing and licence the token encoders of the registry have."""

from __future__ import annotations

from pathlib import Path

from idpersona.encoders.vit import AlignedFaceTokens, FaceFrame, TokenModel
from idpersona.registry import get_weight, locate

MINI_FRAME = FaceFrame(eye_distance=0.30, eye_line=0.47)
CLIP_FRAME = FaceFrame(eye_distance=0.225, eye_line=0.47)
"""The ArcFace template with a margin of 1.4: Infinite-ID's own alignment is not published."""


def mini_vit(folder: str | Path | None = None) -> AlignedFaceTokens:
    """The embedded model's ViT on an aligned face; MissingWeights when it is not there."""
    return _aligned("mini-vit", folder, MINI_FRAME)


def clip_h(folder: str | Path | None = None) -> AlignedFaceTokens:
    """OpenCLIP ViT-H/14's hidden states of an aligned face; MissingWeights when it is not there."""
    return _aligned("clip-h", folder, CLIP_FRAME)


def _aligned(name: str, folder: str | Path | None, frame: FaceFrame) -> AlignedFaceTokens:
    model = TokenModel(name, locate(name) if folder is None else folder)
    return AlignedFaceTokens(name, model, frame, finder="dlib", licence=get_weight(name).licence)

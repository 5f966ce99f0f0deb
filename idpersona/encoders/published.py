"""Which weights, framing and licence the token encoders of the registry have."""

from __future__ import annotations

from pathlib import Path

from idpersona.encoders.vit import AlignedFaceTokens, FaceFrame, ObjectTokens, TokenModel
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


def mini_vit_object(folder: str | Path | None = None) -> ObjectTokens:
    """The embedded model's ViT on whole pictures; MissingWeights when it is not there."""
    return _object("mini-vit-object", folder, weights="mini-vit")


def dinov2(folder: str | Path | None = None) -> ObjectTokens:
    """DINOv2 ViT-L/14 at 224 pixels; MissingWeights when it is not there."""
    return _object("dinov2", folder, side=224)


def mae(folder: str | Path | None = None) -> ObjectTokens:
    """MAE ViT-L/16, all patches seen; MissingWeights when it is not there."""
    return _object("mae", folder)


def _object(
    name: str, folder: str | Path | None, *, weights: str | None = None, side: int | None = None
) -> ObjectTokens:
    known = weights or name
    model = TokenModel(known, locate(known) if folder is None else folder, side)
    return ObjectTokens(name, model, licence=get_weight(known).licence)


def _aligned(name: str, folder: str | Path | None, frame: FaceFrame) -> AlignedFaceTokens:
    model = TokenModel(name, locate(name) if folder is None else folder)
    return AlignedFaceTokens(name, model, frame, finder="dlib", licence=get_weight(name).licence)

"""Which weights, framing and licence the token encoders of the registry have."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from idpersona.encoders.aligned import AlignedFace, Crop, arcface, eyes_at, ffhq_head
from idpersona.encoders.e4e import E4EModel
from idpersona.encoders.style import StyleModel
from idpersona.encoders.vit import ObjectTokens, TokenModel
from idpersona.registry import get_weight, locate

MINI_FRAME = eyes_at(0.30, 0.47)
CLIP_FRAME = eyes_at(0.225, 0.47)
"""The ArcFace template with a margin of 1.4: Infinite-ID's own alignment is not published."""


def mini_vit(folder: str | Path | None = None) -> AlignedFace:
    """The embedded model's ViT on an aligned face; MissingWeights when it is not there."""
    return _aligned("mini-vit", folder, MINI_FRAME)


def clip_h(folder: str | Path | None = None) -> AlignedFace:
    """OpenCLIP ViT-H/14's hidden states of an aligned face; MissingWeights when it is not there."""
    return _aligned("clip-h", folder, CLIP_FRAME)


def clip_h_embed(folder: str | Path | None = None) -> ObjectTokens:
    """OpenCLIP ViT-H/14's projected embedding of a whole picture (IP-Adapter)."""
    return _clip_object("clip-h-embed", folder, "embed")


def clip_h_penultimate(folder: str | Path | None = None) -> ObjectTokens:
    """OpenCLIP ViT-H/14's hidden states before the last layer, of a whole picture (IP-Adapter Plus)."""
    return _clip_object("clip-h-penultimate", folder, "penultimate")


def clip_h_face_penultimate(folder: str | Path | None = None) -> AlignedFace:
    """The same of a face aligned to the ArcFace template (FaceID-Plus, Plus-Face, Full-Face)."""
    model = TokenModel("clip-h", locate("clip-h") if folder is None else folder, output="penultimate")
    return AlignedFace("clip-h-face-penultimate", model, arcface(), licence=get_weight("clip-h").licence)


def _clip_object(
    name: str, folder: str | Path | None, output: Literal["embed", "penultimate"]
) -> ObjectTokens:
    model = TokenModel("clip-h", locate("clip-h") if folder is None else folder, output=output)
    return ObjectTokens(name, model, licence=get_weight("clip-h").licence)


def mini_wplus(folder: str | Path | None = None, vae: str | Path | None = None) -> AlignedFace:
    """A face's code in the embedded model's W+ space; MissingWeights when its weights are not there.

    ``vae`` is the folder of the autoencoder on whose latents the encoder was trained; None: mini's.
    """
    place = locate("mini-wplus") if folder is None else Path(folder)
    network = StyleModel("mini-wplus", place, locate("mini") / "vae" if vae is None else vae)
    return AlignedFace("mini-wplus", network, MINI_FRAME, licence=get_weight("mini-wplus").licence)


def e4e(folder: str | Path | None = None) -> AlignedFace:
    """A face's code in StyleGAN2-FFHQ's W+ space by e4e; MissingWeights when its weights are not there."""
    network = E4EModel("e4e", (locate("e4e") if folder is None else Path(folder)) / "e4e_ffhq_encode.pt")
    return AlignedFace("e4e", network, ffhq_head(), licence=get_weight("e4e").licence)


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


def _aligned(name: str, folder: str | Path | None, crop: Crop) -> AlignedFace:
    model = TokenModel(name, locate(name) if folder is None else folder)
    return AlignedFace(name, model, crop, licence=get_weight(name).licence)

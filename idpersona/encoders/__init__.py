"""Encoders: detect, align and embed what is in a photo. Networks are loaded on first use."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from idpersona.encoders.alignment import ARCFACE_TEMPLATE, align, similarity_transform
from idpersona.encoders.base import Encoder, Face, FaceEncoder, Faces, ObjectEncoder
from idpersona.encoders.catalogue import (
    encoder_names,
    encoder_subject,
    encoder_weights,
    get_encoder,
    register_encoder,
    release_encoders,
)
from idpersona.encoders.quality import FaceQuality, measure_quality
from idpersona.encoders.reading import DEFAULT_ENCODER, list_boxes, read_identity
from idpersona.encoders.similarity import Similarity, similarity

__all__ = [
    "ARCFACE_TEMPLATE",
    "DEFAULT_ENCODER",
    "Encoder",
    "Face",
    "FaceEncoder",
    "FaceQuality",
    "Faces",
    "ObjectEncoder",
    "Similarity",
    "align",
    "encoder_names",
    "encoder_subject",
    "encoder_weights",
    "get_encoder",
    "list_boxes",
    "measure_quality",
    "read_identity",
    "register_encoder",
    "release_encoders",
    "similarity",
    "similarity_transform",
]


def _lazy(module: str, function: str) -> Callable[..., Encoder]:
    """A factory whose module is imported when it is called."""

    def factory(**options: Any) -> Encoder:
        return getattr(import_module(f"idpersona.encoders.{module}"), function)(**options)

    factory.__qualname__ = function
    return factory


for _name, _module, _function, _weights in (
    ("dlib", "dlib_face", "DlibFaceEncoder", None),
    ("antelopev2", "insightface_pack", "antelopev2", None),
    ("buffalo_l", "insightface_pack", "buffalo_l", None),
    # Those without a detector of their own find faces by dlib.
    ("mini-vit", "published", "mini_vit", ("mini-vit", "dlib")),
    ("clip-h", "published", "clip_h", ("clip-h", "dlib")),
    ("clip-h-face-penultimate", "published", "clip_h_face_penultimate", ("clip-h", "dlib")),
    ("mini-wplus", "published", "mini_wplus", ("mini-wplus", "mini", "dlib")),
    ("e4e", "published", "e4e", ("e4e", "dlib")),
):
    register_encoder(_name, _lazy(_module, _function), weights=_weights)
for _name, _function, _weights in (
    ("mini-vit-object", "mini_vit_object", "mini-vit"),
    ("dinov2", "dinov2", None),
    ("mae", "mae", None),
    ("clip-h-embed", "clip_h_embed", "clip-h"),
    ("clip-h-penultimate", "clip_h_penultimate", "clip-h"),
):
    register_encoder(_name, _lazy("published", _function), subject="object", weights=_weights)

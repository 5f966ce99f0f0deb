"""Encoders: detect, align and embed what is in a photo. Networks are loaded on first use."""

from __future__ import annotations

from typing import Any

from idpersona.encoders.alignment import ARCFACE_TEMPLATE, align, similarity_transform
from idpersona.encoders.base import Encoder, Face, FaceEncoder, Faces, ObjectEncoder
from idpersona.encoders.catalogue import (
    encoder_names,
    encoder_subject,
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
    "get_encoder",
    "list_boxes",
    "measure_quality",
    "read_identity",
    "register_encoder",
    "release_encoders",
    "similarity",
    "similarity_transform",
]


def _dlib(**options: Any) -> Encoder:
    from idpersona.encoders.dlib_face import DlibFaceEncoder

    return DlibFaceEncoder(**options)


def _antelopev2(**options: Any) -> Encoder:
    from idpersona.encoders.insightface_pack import antelopev2

    return antelopev2(**options)


def _buffalo_l(**options: Any) -> Encoder:
    from idpersona.encoders.insightface_pack import buffalo_l

    return buffalo_l(**options)


def _mini_vit(**options: Any) -> Encoder:
    from idpersona.encoders.published import mini_vit

    return mini_vit(**options)


def _clip_h(**options: Any) -> Encoder:
    from idpersona.encoders.published import clip_h

    return clip_h(**options)


register_encoder("dlib", _dlib)
register_encoder("antelopev2", _antelopev2)
register_encoder("buffalo_l", _buffalo_l)
register_encoder("mini-vit", _mini_vit)
register_encoder("clip-h", _clip_h)

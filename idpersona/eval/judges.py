"""Judges of identity: face encoders that condition nothing and enter no loss, behind one registry.

A claim of likeness made with the encoder that conditioned the picture only says that the adapter copies that
encoder. ``mini-judge`` ships and was trained on training people only; ``mobilefacenet`` comes from elsewhere
and is used during development.
"""

from __future__ import annotations

from collections.abc import Callable

from idpersona.encoders.judge import MINI_JUDGE, Judge, mini_judge
from idpersona.errors import UnknownName
from idpersona.eval.weights import development_weight
from idpersona.hashing import weights_sha256


def _mobilefacenet() -> Judge:
    from idpersona.eval.mobilefacenet import MobileFaceNet

    path = development_weight("face_recognition/mobilefacenet_068.ckpt")
    module = MobileFaceNet.from_checkpoint(path)
    licence = "none stated; trained on CASIA-WebFace (research); development only"
    return Judge("mobilefacenet", module, 112, (8, 104), 128.0, weights_sha256(path), licence, False)


JUDGES: dict[str, Callable[[], Judge]] = {MINI_JUDGE: mini_judge, "mobilefacenet": _mobilefacenet}


def judge_names() -> list[str]:
    """Names of all judges, whether or not their weights are on this machine."""
    return sorted(JUDGES)


def get_judge(name: str) -> Judge:
    """A judge by name; raises UnknownName, or MissingWeights when its weights are not on this machine."""
    if name not in JUDGES:
        raise UnknownName("judge", name, JUDGES)
    return JUDGES[name]()

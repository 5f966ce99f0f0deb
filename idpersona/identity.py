"""The identity of one subject: a frozen value, read once from photos, kept in one safe file.

The file is safetensors: raw float32 arrays and JSON text, nothing that can run. It holds features, keypoints
and where they come from, never the photos. See :mod:`idpersona.identity_file` for the layout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np

from idpersona.errors import BadInput, IdentityFileError
from idpersona.images import atomic_output, check_output
from idpersona.keypoints import check_keypoints

FORMAT_VERSION = 2
KINDS = ("face", "object")
MAX_VALUES = 16_000_000
MAX_WARNINGS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

MergeRule = Literal["mean", "weighted", "concat"]


def _fail(message: str) -> BadInput:
    return BadInput(message)


def _text(value: object, what: str, limit: int = 400) -> str:
    # Control characters would let a file write escape sequences to the reader's terminal.
    if not isinstance(value, str) or len(value) > limit or not all(c.isprintable() for c in value):
        raise _fail(f"{what} must be printable text of at most {limit} characters")
    return value


@dataclass(frozen=True, eq=False)
class Feature:
    """What one encoder saw.

    Attributes:
        encoder: name of the encoder in the registry.
        values: float32 ``[n, dim]``, finite; ``tokens`` rows per photo, of one photo unless ``concat`` kept
            several.
        weights_sha256: of the encoder's recognition weights (hex), or "" when unknown.
        preprocessing: name of the recipe from photo to encoder input.
        normalised: True when every row has length 1. InstantID wants rows that are **not** normalised.
        licence: licence of the encoder's weights.
        tokens: rows that the encoder makes of one photo.

    Raises:
        BadInput: any field outside of what is said above.
    """

    encoder: str
    values: np.ndarray
    weights_sha256: str = ""
    preprocessing: str = ""
    normalised: bool = False
    licence: str = ""
    tokens: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.encoder, str) or not _NAME.fullmatch(self.encoder):
            raise _fail(f"not an encoder name: {str(self.encoder)[:80]!r}")
        name = f"feature '{self.encoder}'"
        values = np.asarray(self.values)
        if values.dtype != np.float32:
            raise _fail(f"{name} must be float32, got {values.dtype}")
        if values.ndim != 2 or 0 in values.shape or values.size > MAX_VALUES:
            raise _fail(f"{name} must have shape [n, dim], got {list(values.shape)}")
        if type(self.tokens) is not int or self.tokens < 1 or len(values) % self.tokens:
            raise _fail(f"{name}: {len(values)} rows are no multiple of {str(self.tokens)[:20]} per photo")
        if not np.isfinite(values).all():
            raise _fail(f"{name} holds numbers that are not finite")
        if not isinstance(self.normalised, bool):
            raise _fail(f"{name}: normalised must be true or false")
        if self.normalised and np.abs(np.linalg.norm(values, axis=1) - 1).max() > 1e-3:
            raise _fail(f"{name} is marked normalised but its rows do not have length 1")
        if self.weights_sha256 != "" and not _is_sha256(self.weights_sha256):
            raise _fail(f"{name}: weights_sha256 is not a sha256")
        _text(self.preprocessing, f"{name}: preprocessing")
        _text(self.licence, f"{name}: licence")
        object.__setattr__(self, "values", _frozen(values))

    @property
    def dim(self) -> int:
        """Length of a row."""
        return int(self.values.shape[1])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Feature):
            return NotImplemented
        same = all(
            getattr(self, f.name) == getattr(other, f.name) for f in fields(self) if f.name != "values"
        )
        return same and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.encoder, self.weights_sha256, self.values.tobytes()))


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _frozen(array: np.ndarray) -> np.ndarray:
    array = np.array(array, dtype=np.float32, order="C")
    array.setflags(write=False)
    return array


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, eq=False)
class Identity:
    """Who or what is in one or more photos of one subject.

    Attributes:
        kind: ``"face"`` or ``"object"``.
        features: encoder name → :class:`Feature`; at least one, read-only.
        keypoints: float32 ``[5, 2]`` pixels in the first photo (:mod:`idpersona.keypoints`), or None.
        image_size: ``(width, height)`` of that photo in pixels, or None.
        sources: sha256 of each photo, in order, without repeats.
        consent: the subject agreed to this use, as stated by the user.
        created: ISO 8601 time with its zone.
        warnings: what was doubtful while reading, one sentence each.

    Raises:
        BadInput: any field outside of what is said above.
    """

    kind: str
    features: Mapping[str, Feature]
    keypoints: np.ndarray | None = None
    image_size: tuple[int, int] | None = None
    sources: tuple[str, ...] = ()
    consent: bool = False
    created: str = field(default_factory=_now)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise _fail(f"kind must be 'face' or 'object', got {str(self.kind)[:80]!r}")
        if not self.features:
            raise _fail("an identity needs at least one feature")
        for name, feature in self.features.items():
            if not isinstance(feature, Feature) or feature.encoder != name:
                raise _fail(f"feature {str(name)[:80]!r} is not filed under its encoder's name")
        if self.image_size is not None and not (
            len(self.image_size) == 2
            and all(type(side) is int and 1 <= side <= 1_000_000 for side in self.image_size)
        ):
            raise _fail(f"image_size must be two whole numbers, got {str(self.image_size)[:80]}")
        if self.keypoints is not None:
            if self.image_size is None:
                raise _fail("keypoints need the image_size they were measured in")
            object.__setattr__(self, "keypoints", _frozen(check_keypoints(self.keypoints)))
        if len(self.sources) > 10_000 or not all(_is_sha256(s) for s in self.sources):
            raise _fail("sources must be sha256 sums")
        if not isinstance(self.consent, bool):
            raise _fail("consent must be true or false")
        _check_time(self.created)
        if len(self.warnings) > MAX_WARNINGS:
            raise _fail("too many warnings")
        for warning in self.warnings:
            _text(warning, "a warning", 1000)
        object.__setattr__(self, "features", MappingProxyType(dict(self.features)))
        object.__setattr__(self, "image_size", None if self.image_size is None else tuple(self.image_size))
        object.__setattr__(self, "sources", tuple(dict.fromkeys(self.sources)))
        object.__setattr__(self, "warnings", tuple(dict.fromkeys(self.warnings)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Identity):
            return NotImplemented
        plain = [f.name for f in fields(self) if f.name != "keypoints"]
        if any(getattr(self, name) != getattr(other, name) for name in plain):
            return False
        if self.keypoints is None or other.keypoints is None:
            return self.keypoints is other.keypoints
        return np.array_equal(self.keypoints, other.keypoints)

    def __hash__(self) -> int:
        return hash((self.kind, self.created, self.sources, tuple(sorted(self.features))))

    def __reduce__(self) -> tuple[Any, ...]:
        # Read-only mappings cannot be pickled; worker processes and deepcopy need this.
        values = [getattr(self, f.name) for f in fields(self)]
        values[1] = dict(self.features)
        return (Identity, tuple(values))

    def feature(self, encoder: str, *, needed_by: str = "") -> Feature:
        """The feature of one encoder.

        Raises:
            IdentityFileError: it is not there; says which adapter (``needed_by``) needs which encoder.
        """
        self.require((encoder,), needed_by=needed_by)
        return self.features[encoder]

    def require(self, encoders: Sequence[str], *, needed_by: str = "") -> None:
        """Raises IdentityFileError unless the features of all ``encoders`` are there; see :meth:`feature`."""
        if all(encoder in self.features for encoder in encoders):
            return
        who = f"adapter '{needed_by}' needs" if needed_by else "needed is"
        named = " and ".join(f"'{encoder}'" for encoder in encoders)
        raise IdentityFileError(
            f"this identity holds features of {', '.join(sorted(self.features))}, but {who} {named}: "
            "read the photos again for it (idpersona identify PHOTO --for ADAPTER --base BASE, or "
            f"--encoder {' '.join(encoders)})"
        )

    def with_consent(self, consent: bool = True) -> Identity:
        """A copy with the consent flag set."""
        return replace(self, consent=consent)

    @classmethod
    def merge(
        cls,
        identities: Sequence[Identity],
        how: MergeRule = "mean",
        weights: Sequence[float] | None = None,
    ) -> Identity:
        """Join identities of one subject; see :func:`idpersona.merging.merge_identities`."""
        from idpersona.merging import merge_identities

        return merge_identities(identities, how, weights)

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> Path:
        """Write the identity as safetensors, whole or not at all; returns the path.

        Raises:
            OutputError: the folder is missing or not writable, or the file exists and not ``force``.
        """
        from idpersona.identity_file import to_bytes

        target = check_output(path, force=force)
        data = to_bytes(self)
        with atomic_output(target, force=force) as part:
            part.write_bytes(data)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Read an identity file and validate everything in it.

        Raises:
            IdentityFileError: missing, not an identity file, cut off, corrupt, or of a newer version.
        """
        from idpersona.identity_file import from_bytes, read_bytes

        return from_bytes(read_bytes(path), str(path))

    def describe(self) -> dict[str, object]:
        """What is in it, without the numbers; ready for JSON."""
        return {
            "kind": self.kind,
            "encoders": {
                name: {
                    "rows": int(f.values.shape[0]),
                    "tokens": f.tokens,
                    "dim": f.dim,
                    "normalised": f.normalised,
                    "preprocessing": f.preprocessing,
                    "weights_sha256": f.weights_sha256,
                    "licence": f.licence,
                }
                for name, f in self.features.items()
            },
            "keypoints": None
            if self.keypoints is None
            else cast("list[list[float]]", self.keypoints.tolist()),
            "image_size": None if self.image_size is None else list(self.image_size),
            "photos": len(self.sources),
            "consent": self.consent,
            "created": self.created,
            "warnings": list(self.warnings),
        }


def _check_time(created: object) -> None:
    try:
        moment = datetime.fromisoformat(_text(created, "created", 64))
    except ValueError as error:
        raise _fail(f"created is not an ISO 8601 time: {str(created)[:80]!r}") from error
    if moment.tzinfo is None:
        raise _fail("created needs a time zone")

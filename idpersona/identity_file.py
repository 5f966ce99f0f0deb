"""Layout of an identity file, versions 1 and 2.

A safetensors file. Tensors, all ``F32``: ``feature.<encoder>`` ``[n, dim]`` for every feature and, for
faces, ``keypoints`` ``[5, 2]``. Header metadata: ``format`` = ``idpersona.identity``, ``version``, and
``identity``, a JSON object with the other fields of :class:`~idpersona.identity.Identity`. Unknown tensors
and fields are refused: whatever adds meaning gets a new version, and a newer version is refused.

Version 2 says of every feature how many rows its encoder makes of one photo (``tokens``). Identities without
such features are still written as version 1, which older readers know.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np

from idpersona.errors import BadInput, IdentityFileError
from idpersona.identity import FORMAT_VERSION, Feature, Identity

FORMAT = "idpersona.identity"
MAX_FILE_BYTES = 128 * 1024 * 1024
MAX_HEADER_BYTES = 4 * 1024 * 1024
_FIELDS = {"kind", "features", "image_size", "sources", "consent", "created", "warnings"}
_FEATURE_FIELDS = {"weights_sha256", "preprocessing", "normalised", "licence"}


def to_bytes(identity: Identity) -> bytes:
    """The whole file; equal identities give equal bytes."""
    from safetensors.numpy import save

    tensors = {f"feature.{name}": np.array(f.values) for name, f in sorted(identity.features.items())}
    if identity.keypoints is not None:
        tensors["keypoints"] = np.array(identity.keypoints)
    version = 2 if any(f.tokens > 1 for f in identity.features.values()) else 1
    about = {
        "kind": identity.kind,
        "features": {
            name: {key: getattr(f, key) for key in sorted(_feature_fields(version))}
            for name, f in sorted(identity.features.items())
        },
        "image_size": identity.image_size,
        "sources": identity.sources,
        "consent": identity.consent,
        "created": identity.created,
        "warnings": identity.warnings,
    }
    metadata = {
        "format": FORMAT,
        "version": str(version),
        "identity": json.dumps(about, sort_keys=True, ensure_ascii=False),
    }
    return _sorted_header(save(tensors, metadata=metadata))


def _sorted_header(data: bytes) -> bytes:
    # safetensors writes metadata in random order; a file that is a value should have one form.
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """Bytes of a file that may be an identity file; IdentityFileError when unreadable or too large."""
    text = os.fspath(path)
    if not text or "\0" in text:
        raise IdentityFileError(f"{text!r} is not a path")
    file = Path(text).expanduser()
    try:
        if not file.exists():
            raise IdentityFileError(f"no such identity file: {file}")
        if not file.is_file():
            raise IdentityFileError(f"{file} is not a file")
        size = file.stat().st_size
        if size > MAX_FILE_BYTES:
            raise IdentityFileError(f"{file} is not an identity file: {size >> 20} MiB is too large")
        return file.read_bytes()
    except OSError as error:
        raise IdentityFileError(f"cannot read {file}: {error.strerror or error}") from error


def from_bytes(data: bytes, name: str = "identity file") -> Identity:
    """Validate the bytes of an identity file and build the value; ``name`` is used in messages.

    Raises:
        IdentityFileError: whatever is wrong with them.
    """
    try:
        header = _header(data)
        version = _version(header)
        if version > FORMAT_VERSION:
            raise IdentityFileError(
                f"{name} has format version {version}, newer than the {FORMAT_VERSION} that this idpersona "
                "reads: update idpersona"
            )
        about = _object(header["__metadata__"].get("identity"), version)
        tensors = _tensors(data, header, about)
        return _build(about, tensors)
    except IdentityFileError:
        raise
    except BadInput as error:
        raise IdentityFileError(f"{name} is not a sound identity file: {error}") from error
    except Exception as error:  # hostile bytes can make a parser raise anything
        reason = " ".join(str(error).split())[:160]
        raise IdentityFileError(f"{name} is corrupt: {reason or type(error).__name__}") from error


def _header(data: bytes) -> dict[str, Any]:
    if len(data) == 0:
        raise BadInput("it is empty")
    if len(data) < 10:
        raise BadInput("it is cut off or of another kind")
    (length,) = struct.unpack("<Q", data[:8])
    if length > len(data) - 8:
        raise BadInput("it is cut off or of another kind")
    if length > MAX_HEADER_BYTES:
        raise BadInput(f"its header of {length} bytes is too large")
    header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_no_repeats)
    if not isinstance(header, dict):
        raise BadInput("its header is not an object")
    return header


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise BadInput("a name is given twice in its header")
    return dict(pairs)


def _version(header: dict[str, Any]) -> int:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise BadInput("it is a safetensors file of another kind")
    version = metadata.get("version")
    if not isinstance(version, str) or not version.isascii() or not version.isdigit() or len(version) > 9:
        raise BadInput("its format version is not a number")
    if int(version) < 1:
        raise BadInput("its format version is below 1")
    return int(version)


def _feature_fields(version: int) -> set[str]:
    return _FEATURE_FIELDS | {"tokens"} if version > 1 else _FEATURE_FIELDS


def _object(text: object, version: int) -> dict[str, Any]:
    if not isinstance(text, str):
        raise BadInput("it holds no description")
    about = json.loads(text, object_pairs_hook=_no_repeats)
    if not isinstance(about, dict):
        raise BadInput("its description is not an object")
    _same_names(set(about), _FIELDS, "field")
    if not isinstance(about["features"], dict):
        raise BadInput("its features are not an object")
    for encoder, entry in about["features"].items():
        if not isinstance(entry, dict):
            raise BadInput(f"feature {encoder[:80]!r} is not an object")
        _same_names(set(entry), _feature_fields(version), f"feature {encoder[:80]!r} field")
    for key in ("sources", "warnings"):
        if not isinstance(about[key], list):
            raise BadInput(f"{key} is not a list")
    if not (about["image_size"] is None or isinstance(about["image_size"], list)):
        raise BadInput("image_size is not a pair")
    return about


def _same_names(found: set[str], wanted: set[str], what: str) -> None:
    if missing := sorted(wanted - found):
        raise BadInput(f"{what} {missing[0]!r} is missing")
    if extra := sorted(found - wanted):
        raise BadInput(f"{what} {extra[0][:80]!r} is unknown")


def _tensors(data: bytes, header: dict[str, Any], about: dict[str, Any]) -> dict[str, np.ndarray]:
    found = {key for key in header if key != "__metadata__"}
    wanted = {f"feature.{encoder}" for encoder in about["features"]}
    _same_names(found - {"keypoints"}, wanted, "tensor")
    for key in sorted(found):
        dtype = header[key].get("dtype") if isinstance(header[key], dict) else None
        if dtype != "F32":
            raise BadInput(f"tensor {key!r} must be F32, is {str(dtype)[:20]}")
    from safetensors.numpy import load

    return load(data)


def _build(about: dict[str, Any], tensors: dict[str, np.ndarray]) -> Identity:
    features = {
        encoder: Feature(encoder=encoder, values=tensors[f"feature.{encoder}"], **entry)
        for encoder, entry in about["features"].items()
    }
    return Identity(
        kind=about["kind"],
        features=features,
        keypoints=tensors.get("keypoints"),
        image_size=None if about["image_size"] is None else tuple(about["image_size"]),
        sources=tuple(about["sources"]),
        consent=about["consent"],
        created=about["created"],
        warnings=tuple(about["warnings"]),
    )

"""Identity files: round trip, and every way in which a file can be wrong."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from idpersona import Identity
from idpersona.errors import IdentityFileError, OutputError
from idpersona.identity import Feature
from idpersona.identity_file import from_bytes, to_bytes


def _identity() -> Identity:
    values = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    return Identity(
        kind="face",
        features={
            "dlib": Feature("dlib", values, "ab" * 32, "chip 150", False, "CC0"),
            "other": Feature("other", unit, "cd" * 32, "crop", True, "MIT"),
        },
        keypoints=np.arange(10, dtype=np.float32).reshape(5, 2),
        image_size=(640, 480),
        sources=("01" * 32, "23" * 32),
        consent=True,
        created="2026-03-01T12:00:00+00:00",
        warnings=("das Gesicht ist unscharf: größer ist besser",),
    )


def test_round_trip(tmp_path: Path):
    me = _identity()
    path = me.save(tmp_path / "me.safetensors")
    again = Identity.load(path)
    assert again == me
    assert again.feature("other").normalised
    assert not again.feature("dlib").normalised
    assert to_bytes(again) == path.read_bytes()
    assert set(load_file(path)) == {"feature.dlib", "feature.other", "keypoints"}
    assert [p.name for p in tmp_path.iterdir()] == ["me.safetensors"]


def test_an_object_has_no_keypoints(tmp_path: Path):
    cup = dataclasses.replace(_identity(), kind="object", keypoints=None, image_size=None)
    cup.save(tmp_path / "cup.safetensors")
    assert Identity.load(str(tmp_path / "cup.safetensors")) == cup


def test_saving_never_overwrites_unasked(tmp_path: Path):
    path = tmp_path / "me.safetensors"
    _identity().save(path)
    before = path.read_bytes()
    with pytest.raises(OutputError, match="exists"):
        _identity().with_consent(False).save(path)
    assert path.read_bytes() == before
    _identity().with_consent(False).save(path, force=True)
    assert not Identity.load(path).consent
    with pytest.raises(OutputError, match="does not exist"):
        _identity().save(tmp_path / "none" / "me.safetensors")


def _parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def _join(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def _edit(change: Callable[[dict[str, Any]], None]) -> bytes:
    """The file with its JSON description changed."""
    header, body = _parts(to_bytes(_identity()))
    about = json.loads(header["__metadata__"]["identity"])
    change(about)
    header["__metadata__"]["identity"] = json.dumps(about)
    return _join(header, body)


def _meta(**fields: Any) -> bytes:
    header, body = _parts(to_bytes(_identity()))
    header["__metadata__"].update(fields)
    header["__metadata__"] = {k: v for k, v in header["__metadata__"].items() if v is not None}
    return _join(header, body)


def _tensors(**arrays: np.ndarray | None) -> bytes:
    me = _identity()
    tensors: dict[str, np.ndarray] = {f"feature.{n}": np.array(f.values) for n, f in me.features.items()}
    tensors["keypoints"] = np.array(me.keypoints)
    for name, array in arrays.items():
        key = name.replace("__", ".")
        if array is None:
            del tensors[key]
        else:
            tensors[key] = array
    return save(tensors, metadata=_parts(to_bytes(me))[0]["__metadata__"])


GOOD = to_bytes(_identity())
NAN = np.full((2, 8), np.nan, np.float32)
BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "empty"),
    "text": (b"this is no identity file", "cut off or of another kind"),
    "cut in the header": (GOOD[:40], "cut off"),
    "cut in the tensors": (GOOD[:-5], "corrupt"),
    "bytes behind the end": (GOOD + b"xx", "corrupt"),
    "header of 2^63 bytes": (struct.pack("<Q", 1 << 63) + GOOD[8:], "cut off"),
    "header of 5 MB": (struct.pack("<Q", 5_000_000) + b" " * 5_000_001, "too large"),
    "deeply nested header": (struct.pack("<Q", 200_000) + b"[" * 200_000, "corrupt"),
    "header no object": (_join([1], b""), "not an object"),  # type: ignore[arg-type]
    "header not utf-8": (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "corrupt"),
    "name twice": (
        struct.pack("<Q", 34) + b'{"__metadata__":{}, "a":1, "a":2}' + b" ",
        "given twice",
    ),
    "other safetensors": (save({"x": np.zeros(3, np.float32)}), "another kind"),
    "other format": (_meta(format="lora"), "another kind"),
    "newer version": (_meta(version="3"), "version 3, newer than the 2 .* update idpersona"),
    "version zero": (_meta(version="0"), "below 1"),
    "version text": (_meta(version="one"), "not a number"),
    "version superscript": (_meta(version="²"), "not a number"),
    "no description": (_meta(identity=None), "no description"),
    "description no json": (_meta(identity="{"), "corrupt"),
    "description a list": (_meta(identity="[]"), "not an object"),
    "metadata of a number": (_meta(identity=3), "no description"),
    "field missing": (_edit(lambda a: a.pop("consent")), "'consent' is missing"),
    "field unknown": (_edit(lambda a: a.update(extra=1)), "'extra' is unknown"),
    "feature field missing": (_edit(lambda a: a["features"]["dlib"].pop("licence")), "'licence' is missing"),
    "features a list": (_edit(lambda a: a.update(features=[])), "not an object"),
    "no features": (_edit(lambda a: a.update(features={})), "unknown"),
    "kind": (_edit(lambda a: a.update(kind="x" * 9999)), "kind must be"),
    "consent text": (_edit(lambda a: a.update(consent="yes")), "consent"),
    "sources text": (_edit(lambda a: a.update(sources="x")), "sources is not a list"),
    "sources of numbers": (_edit(lambda a: a.update(sources=[1])), "sha256"),
    "size of NaN": (_edit(lambda a: a.update(image_size=[float("nan"), 1])), "image_size"),
    "size of booleans": (_edit(lambda a: a.update(image_size=[True, True])), "image_size"),
    "no size": (_edit(lambda a: a.update(image_size=None)), "image_size"),
    "created": (_edit(lambda a: a.update(created=5)), "created"),
    "warning with escape": (_edit(lambda a: a.update(warnings=["\x1b[2J"])), "printable"),
    "lone surrogate": (_edit(lambda a: a.update(warnings=["\ud800"])), "printable"),
    "falsely normalised": (_edit(lambda a: a["features"]["dlib"].update(normalised=True)), "length 1"),
    "tensor missing": (_tensors(feature__dlib=None), "'feature.dlib' is missing"),
    "tensor unknown": (_tensors(feature__new=np.zeros((1, 2), np.float32)), "'feature.new' is unknown"),
    "tensor of doubles": (_tensors(feature__dlib=np.zeros((2, 8))), "must be F32, is F64"),
    "tensor of halves": (_tensors(keypoints=np.zeros((5, 2), np.float16)), "must be F32, is F16"),
    "tensor of one axis": (_tensors(feature__dlib=np.zeros(8, np.float32)), r"shape \[n, dim\]"),
    "tensor without rows": (_tensors(feature__dlib=np.zeros((0, 8), np.float32)), r"shape \[n, dim\]"),
    "not finite": (_tensors(feature__dlib=NAN), "not finite"),
    "four keypoints": (_tensors(keypoints=np.zeros((4, 2), np.float32)), r"shape \[5, 2\]"),
    "keypoints not finite": (_tensors(keypoints=np.full((5, 2), np.inf, np.float32)), "finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_clear_line(tmp_path: Path, name: str):
    data, message = BAD[name]
    path = tmp_path / "me.safetensors"
    path.write_bytes(data)
    with pytest.raises(IdentityFileError, match=message) as caught:
        Identity.load(path)
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < 400 + len(str(path))


def test_paths_that_are_no_files(tmp_path: Path):
    for bad in (tmp_path, tmp_path / "none.safetensors", "", "a\0b", "x" * 5000):
        with pytest.raises(IdentityFileError):
            Identity.load(bad)


def test_too_large_a_file_is_not_read(tmp_path: Path):
    path = tmp_path / "huge.safetensors"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(IdentityFileError, match="too large"):
        Identity.load(path)


def test_a_pickle_is_never_run(tmp_path: Path):
    import pickle

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    path = tmp_path / "me.safetensors"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(IdentityFileError):
        Identity.load(path)
    assert not (tmp_path / "ran").exists()


def test_mutated_files_raise_only_identity_errors():
    rng = np.random.default_rng(11)
    loaded = 0
    for _ in range(600):
        data = bytearray(GOOD)
        for place in rng.integers(0, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(0, 256)
        if rng.random() < 0.2:
            data = data[: rng.integers(0, len(data))]
        try:
            from_bytes(bytes(data))
            loaded += 1
        except IdentityFileError as error:
            assert "\n" not in str(error)
    assert loaded < 300

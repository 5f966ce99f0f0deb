"""The identity value: what it accepts, how it merges, what it says."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from idpersona import Identity
from idpersona.errors import BadInput, IdentityFileError
from idpersona.identity import Feature

SHA = "ab" * 32


def make_feature(rows: int = 1, seed: int = 0, encoder: str = "dlib", **more: Any) -> Feature:
    values = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return Feature(**{"encoder": encoder, "values": values, "weights_sha256": SHA, **more})


def make_identity(seed: int = 0, **more: Any) -> Identity:
    fields: dict[str, Any] = {
        "kind": "face",
        "features": {"dlib": make_feature(seed=seed)},
        "keypoints": np.arange(10, dtype=np.float32).reshape(5, 2),
        "image_size": (64, 48),
        "sources": (f"{seed:064x}",),
        "warnings": (f"photo {seed}: the face is blurred",),
    }
    return Identity(**{**fields, **more})


def test_it_is_frozen():
    me = make_identity()
    with pytest.raises(dataclasses.FrozenInstanceError):
        me.consent = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        me.features["x"] = make_feature()  # type: ignore[index]
    with pytest.raises(ValueError, match="read-only"):
        me.features["dlib"].values[0, 0] = 1
    assert me.keypoints is not None
    with pytest.raises(ValueError, match="read-only"):
        me.keypoints[0, 0] = 1


def test_it_owns_its_arrays():
    values = np.ones((1, 4), np.float32)
    feature = Feature("dlib", values)
    values[:] = 7
    assert feature.values.tolist() == [[1, 1, 1, 1]]


def test_equality_is_by_value_and_survives_pickle_and_deepcopy():
    me = make_identity()
    same = dataclasses.replace(me)
    assert me == same
    assert hash(me) == hash(same)
    assert me != make_identity(seed=1)
    assert me != dataclasses.replace(me, keypoints=None)
    assert me != dataclasses.replace(me, features={"dlib": make_feature(seed=5)})
    assert pickle.loads(pickle.dumps(me)) == me == copy.deepcopy(me)


NAN = np.full((1, 4), np.nan, np.float32)
BAD: dict[str, Callable[[], object]] = {
    "no features": lambda: make_identity(features={}),
    "wrong kind": lambda: make_identity(kind="ghost"),
    "filed under another name": lambda: make_identity(features={"clip": make_feature()}),
    "keypoints of four": lambda: make_identity(keypoints=np.zeros((4, 2))),
    "keypoints not finite": lambda: make_identity(keypoints=np.full((5, 2), np.inf)),
    "keypoints without a size": lambda: make_identity(image_size=None),
    "image size below one": lambda: make_identity(image_size=(0, 4)),
    "image size of floats": lambda: make_identity(image_size=(1.5, 4)),
    "image size of three": lambda: make_identity(image_size=(1, 2, 3)),
    "source no sha256": lambda: make_identity(sources=("photo.jpg",)),
    "consent no bool": lambda: make_identity(consent=1),
    "time without zone": lambda: make_identity(created="2026-01-01T00:00:00"),
    "time no time": lambda: make_identity(created="yesterday"),
    "warning with escape": lambda: make_identity(warnings=("\x1b[31mred",)),
    "float64": lambda: Feature("dlib", np.zeros((1, 4))),
    "one axis": lambda: Feature("dlib", np.zeros(4, np.float32)),
    "no rows": lambda: Feature("dlib", np.zeros((0, 4), np.float32)),
    "not finite": lambda: Feature("dlib", NAN),
    "encoder name": lambda: make_feature(encoder="../dlib"),
    "sha256": lambda: make_feature(weights_sha256="123"),
    "licence": lambda: make_feature(licence="x\ny"),
    "marked normalised but is not": lambda: make_feature(normalised=True),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_values_are_refused(name: str):
    with pytest.raises(BadInput) as caught:
        BAD[name]()
    assert "\n" not in str(caught.value)


def test_feature_of_another_encoder_says_who_needs_what():
    with pytest.raises(
        IdentityFileError, match="holds features of dlib, but adapter 'instantid' needs 'antel"
    ):
        make_identity().feature("antelopev2", needed_by="instantid")
    assert make_identity().feature("dlib").dim == 8


def test_consent():
    me = make_identity()
    assert not me.consent
    assert me.with_consent().consent
    assert not me.with_consent().with_consent(False).consent
    assert me.with_consent() != me


def test_merge_mean_counts_each_identity_once():
    two_rows = make_identity(seed=1, features={"dlib": make_feature(rows=2, seed=1)})
    one = make_identity(seed=2)
    merged = Identity.merge([two_rows, one])
    wanted = (two_rows.features["dlib"].values.mean(0) + one.features["dlib"].values[0]) / 2
    assert np.allclose(merged.features["dlib"].values, wanted[None], atol=1e-6)
    assert np.array_equal(merged.keypoints, two_rows.keypoints)  # type: ignore[arg-type]
    assert merged.sources == two_rows.sources + one.sources
    assert merged.warnings == two_rows.warnings + one.warnings


def test_merge_weighted_and_concat():
    parts = [make_identity(seed=s) for s in range(3)]
    rows = [p.features["dlib"].values[0] for p in parts]
    weighted = Identity.merge(parts, "weighted", [2, 0, 6]).features["dlib"].values
    assert np.allclose(weighted[0], 0.25 * rows[0] + 0.75 * rows[2], atol=1e-6)
    joined = Identity.merge(parts, how="concat")
    assert np.array_equal(joined.features["dlib"].values, np.stack(rows))
    assert len(joined.sources) == 3
    again = Identity.merge([parts[0], parts[0]], "concat")
    assert again.sources == parts[0].sources


def test_merge_keeps_normalised_features_normalised():
    unit = [np.eye(8, dtype=np.float32)[i : i + 1] for i in range(2)]
    parts = [make_identity(features={"dlib": Feature("dlib", u, normalised=True)}) for u in unit]
    merged = Identity.merge(parts).features["dlib"]
    assert merged.normalised
    assert np.isclose(np.linalg.norm(merged.values), 1, atol=1e-6)
    opposite = make_identity(features={"dlib": Feature("dlib", -unit[0], normalised=True)})
    with pytest.raises(BadInput, match="cancel out"):
        Identity.merge([parts[0], opposite])


def test_merged_consent_needs_every_part():
    yes, no = make_identity(consent=True), make_identity(seed=1)
    assert Identity.merge([yes, yes]).consent
    assert not Identity.merge([yes, no]).consent


@pytest.mark.parametrize(
    ("parts", "how", "weights", "message"),
    [
        ([], "mean", None, "nothing to merge"),
        ([make_identity()], "median", None, "unknown merge rule"),
        ([make_identity()], "weighted", None, "one weight"),
        ([make_identity()], "weighted", [1, 2], "one weight"),
        ([make_identity()], "weighted", [0.0], "not all zero"),
        ([make_identity()], "weighted", [float("nan")], "finite"),
        ([make_identity()], "mean", [1], "weights are for"),
        ([make_identity(), make_identity(kind="object")], "mean", None, "cannot merge a face with a object"),
        (
            [make_identity(), make_identity(features={"clip": make_feature(encoder="clip")})],
            "mean",
            None,
            "not in all identities",
        ),
        (
            [make_identity(), make_identity(features={"dlib": make_feature(weights_sha256="cd" * 32)})],
            "mean",
            None,
            "weights_sha256 differs",
        ),
    ],
)
def test_bad_merges(parts: list[Identity], how: Any, weights: Any, message: str):
    with pytest.raises(BadInput, match=message):
        Identity.merge(parts, how, weights)


def test_describe_is_plain_data():
    import json

    text = json.dumps(make_identity().describe())
    assert '"photos": 1' in text
    assert '"dim": 8' in text


def test_importing_the_package_is_light():
    code = (
        "import sys, idpersona; idpersona.__version__; "
        "heavy = [m for m in ('torch', 'diffusers', 'numpy', 'PIL', 'cv2') if m in sys.modules]; "
        "assert not heavy, heavy; idpersona.Identity, idpersona.read_identity; "
        "heavy = [m for m in ('torch', 'diffusers', 'dlib', 'onnxruntime', 'skimage') if m in sys.modules]; "
        "assert not heavy, heavy; assert 'Identity' in dir(idpersona)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import idpersona

    with pytest.raises(AttributeError):
        _ = idpersona.nothing_of_that_name  # type: ignore[attr-defined]

"""IP-Adapter's projections against the reference code's outputs (``../shared/golden/ip_adapter``)."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from idpersona.adapters.ip_adapter.convert import kind_of, projector_from
from idpersona.errors import CheckpointError

FOLDER = (
    Path(os.environ.get("IDPERSONA_SHARED", Path(__file__).parents[3] / "shared")) / "golden" / "ip_adapter"
)


@pytest.fixture(scope="module")
def golden() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    if not FOLDER.is_dir():
        pytest.skip(f"development data is not at {FOLDER}")
    cases = json.loads((FOLDER / "ipadapter_proj.json").read_text())
    return cases, load_file(FOLDER / "ipadapter_proj.safetensors")


def weights(name: str, case: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Every tensor is a function of its name and shape: noise over the root of its width, norms near 1."""
    state = {}
    for key, shape in case.get("keys", case).items():
        rng = np.random.Generator(np.random.PCG64(zlib.crc32(f"{name}.{key}".encode())))
        values = rng.standard_normal(tuple(shape)).astype(np.float32)
        width = int(np.prod(shape[1:])) if len(shape) > 1 else 1
        values *= np.float32(1 / width**0.5 if len(shape) > 1 else 0.05)
        if key.endswith("weight") and len(shape) == 1:
            values += 1
        state[key] = torch.from_numpy(values)
    return state


def close(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["faceid", "ipbase", "resampler_plus"])
def test_projections_equal_the_reference(golden: Any, name: str) -> None:
    cases, tensors = golden
    projector = projector_from(weights(name, cases[name]), name)
    assert projector.config["kind"] == {"faceid": "faceid", "ipbase": "base", "resampler_plus": "plus"}[name]
    given = tensors[f"{name}.x"]
    with torch.no_grad():
        ours = projector(None, given) if name == "faceid" else projector(given)
    assert close(ours, tensors[f"{name}.y"])


@pytest.mark.parametrize("shortcut", [False, True])
def test_faceid_plus_equals_the_reference(golden: Any, shortcut: bool) -> None:
    """Version 2 adds the face's own tokens; the resampler's part is weighed by 0.7 in the reference's run."""
    cases, tensors = golden
    projector = projector_from(weights("faceidplus", cases["faceidplus"]), "faceidplus")
    face, picture = tensors["faceid.x"], tensors["faceidplus.clip"]
    with torch.no_grad():
        ours = projector(picture, face, shortcut=shortcut, shortcut_scale=0.7)
    assert close(ours, tensors[f"faceidplus.y.shortcut{int(shortcut)}"])


def test_rebuilt_from_its_configuration(golden: Any, tmp_path: Path) -> None:
    """What is saved in our layout gives the same numbers again."""
    cases, tensors = golden
    for name in ("faceid", "ipbase", "resampler_plus", "faceidplus"):
        projector = projector_from(weights(name, cases[name]), name)
        projector.save_pretrained(tmp_path / name)
        again: Any = type(projector).from_pretrained(tmp_path / name)
        picture = tensors["faceidplus.clip" if name == "faceidplus" else f"{name}.x"]
        with torch.no_grad():
            assert torch.equal(again(picture, tensors["faceid.x"]), projector(picture, tensors["faceid.x"]))


def test_kinds_are_told_by_their_keys(golden: Any) -> None:
    cases = golden[0]
    names = {"faceid": "faceid", "faceidplus": "faceid-plus", "ipbase": "base", "resampler_plus": "plus"}
    for name, kind in names.items():
        assert kind_of(weights(name, cases[name])) == kind
    with pytest.raises(CheckpointError, match="no IP-Adapter projection"):
        projector_from({"bogus": torch.ones(1)}, "bogus")
    broken = weights("faceid", cases["faceid"])
    broken["proj.2.weight"] = broken["proj.2.weight"][:-1]
    with pytest.raises(CheckpointError):
        projector_from(broken, "broken")

"""The structure distance on a tiny ViT: PIE-Bench's definition, restated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from idpersona.errors import BadInput, CheckpointError, MissingWeights
from idpersona.eval.structure import StructureDistance, load_structure
from idpersona.testing.measuring import tiny_dino, write_measures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_measures(tmp_path_factory.mktemp("weights")) / "dino-vitb8"


@pytest.fixture(scope="module")
def pictures() -> tuple[Image.Image, Image.Image]:
    from skimage.data import astronaut

    whole = Image.fromarray(astronaut())
    return whole.crop((150, 0, 250, 100)), whole.crop((300, 200, 400, 300))


def scaled(picture: Image.Image, side: int) -> np.ndarray:
    """float64 [side, side, 3]: each pixel between the four around its middle, without smoothing."""
    values = np.asarray(picture, dtype=np.float64)
    for axis in (0, 1):
        length = values.shape[axis]
        places = np.clip((np.arange(side) + 0.5) * length / side - 0.5, 0, length - 1)
        low = np.floor(places).astype(int)
        part = (places - low).reshape([-1 if n == axis else 1 for n in range(3)])
        high = np.minimum(low + 1, length - 1)
        values = np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part
    return values


def similarities(model: Any, picture: Image.Image) -> Tensor:
    """Cosines of the keys of the last layer, all heads concatenated, the class token first; float64."""
    values = scaled(picture, 32) - np.array([0.485, 0.456, 0.406])  # 0..255, as the evaluator feeds them
    values = torch.from_numpy(values / np.array([0.229, 0.224, 0.225])).permute(2, 0, 1)[None]
    hidden = model(values, output_hidden_states=True).hidden_states[-2]
    *_, last = [m for m in model.modules() if hasattr(m, "layernorm_before")]
    normed = last.layernorm_before(hidden)
    weights = {n.split(".")[-2]: p for n, p in last.named_parameters() if "weight" in n and "attention" in n}
    biases = {n.split(".")[-2]: p for n, p in last.named_parameters() if "bias" in n and "attention" in n}
    name = next(n for n in weights if n in ("k_proj", "key"))
    keys = (normed @ weights[name].T + biases[name])[0]
    heads = keys.reshape(17, 4, 8).transpose(0, 1)  # as [heads, tokens, dim] they leave the network
    joined = heads.transpose(0, 1).reshape(17, 32)
    unit = joined / joined.norm(dim=1, keepdim=True)
    return unit @ unit.T


def test_distance_is_of_the_last_layers_keys(folder: Path, pictures: tuple[Image.Image, Image.Image]) -> None:
    distance = load_structure(folder)
    model = tiny_dino().double()
    with torch.no_grad():
        a, b = (similarities(model, picture) for picture in pictures)
    assert distance.similarities(pictures[0]).shape == (17, 17)
    assert torch.allclose(distance.similarities(pictures[0]).double(), a, atol=1e-4)
    assert distance(*pictures) == pytest.approx(float((a - b).pow(2).mean()), rel=1e-3)
    assert distance(*pictures) > 1e-3 and distance(pictures[0], pictures[0].copy()) == 0.0


def test_nothing_stays_in_the_network(pictures: tuple[Image.Image, Image.Image]) -> None:
    model = tiny_dino()
    distance = StructureDistance(model)
    assert distance(*pictures) == distance(*pictures)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(BadInput, match="Linear has no self-attention"):
        StructureDistance(torch.nn.Linear(1, 1))


def test_other_files_are_refused_by_their_keys(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=f"{tmp_path} holds no ViTModel"):
        load_structure(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["layernorm.bias"]
    state["classifier.weight"] = torch.ones(2, 2)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"missing: layernorm.bias; unexpected: classifier.weight"):
        load_structure(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="holds no ViTModel"):
        load_structure(tmp_path)


def test_a_pooler_beside_it_is_not_read(folder: Path, tmp_path: Path, pictures: Any) -> None:
    state = load_file(folder / "model.safetensors")
    state |= {"pooler.dense.weight": torch.ones(32, 32), "pooler.dense.bias": torch.ones(32)}
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert load_structure(tmp_path)(*pictures) == load_structure(folder)(*pictures)

"""ArcFace networks: published key names, and gradients that reach the pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from idpersona.encoders.alignment import ARCFACE_TEMPLATE
from idpersona.encoders.arcface import IRSE, ArcFace, IResNet
from idpersona.errors import BadInput, CheckpointError

DIM = 16
POINTS = np.stack([ARCFACE_TEMPLATE + 20, ARCFACE_TEMPLATE * 0.9 + 5])


def network(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    made: torch.nn.Module = (
        IResNet((2, 1, 3, 1), (4, 4, 8, 12, 16), DIM)
        if kind == "iresnet"
        else IRSE(16, ((16, 2), (32, 1), (48, 3), (64, 1)), DIM)
    )
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d | torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return made.eval()


def pictures() -> Tensor:
    return torch.rand(2, 3, 150, 150, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("kind", ["iresnet", "irse"])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_sizes_are_read_from_the_tensors(kind: str, suffix: str, tmp_path: Path) -> None:
    made, file = network(kind), tmp_path / f"backbone.{suffix}"
    state = made.state_dict()
    if suffix == "pth":
        # Files of distributed trainings; some lack the counters of batch normalisation.
        torch.save({f"module.{n}": v for n, v in state.items() if not n.endswith("tracked")}, file)
    else:
        save_file(state, file)
    one, other = ArcFace(made)(pictures(), POINTS), ArcFace.load(file)(pictures(), POINTS)
    assert torch.equal(one, other) and one.shape == (2, DIM)
    assert torch.allclose(one.norm(dim=1), torch.ones(2))


@pytest.mark.parametrize("kind", ["iresnet", "irse"])
def test_gradients_reach_the_face_and_nothing_else(kind: str) -> None:
    reader, seen = ArcFace(network(kind)), pictures().requires_grad_()
    wanted = torch.nn.functional.normalize(torch.randn(2, DIM, generator=torch.Generator().manual_seed(2)))
    (1 - (reader(seen, POINTS) * wanted).sum(dim=1)).sum().backward()
    assert seen.grad is not None
    felt = seen.grad.abs().sum(dim=1)
    assert float(felt[0, 60:100, 60:100].mean()) > 0 and float(felt[0, :15, :15].sum()) == 0
    assert all(p.grad is None and not p.requires_grad for p in reader.parameters())


def test_published_names() -> None:
    names = set(IResNet((3, 13, 30, 3), (4, 4, 4, 4, 4), 8).state_dict())
    published = {"conv1.weight", "layer3.29.conv2.weight", "layer2.0.downsample.0.weight", "bn2.running_var"}
    assert published | {"layer1.0.prelu.weight", "fc.bias", "features.running_mean"} <= names
    names = set(IRSE(16, ((16, 3), (32, 4), (48, 14), (64, 3)), 8).state_dict())
    published = {"input_layer.2.weight", "body.3.shortcut_layer.0.weight", "body.23.res_layer.5.fc2.weight"}
    assert published | {"output_layer.3.bias", "output_layer.4.running_var"} <= names


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="is no ArcFace network"):
        ArcFace.load(tmp_path / "other.pth")
    state = network("iresnet").state_dict()
    del state["fc.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="in part only"):
        ArcFace.load(tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        ArcFace.load(tmp_path / "none.pth")
    with pytest.raises(BadInput, match="1 sets of keypoints"):
        ArcFace(network("irse"))(pictures(), POINTS[:1])

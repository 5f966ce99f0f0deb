"""LPIPS on SqueezeNet: its definition, and files that are not its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import Tensor

from idpersona.errors import BadInput, CheckpointError, MissingWeights
from idpersona.eval.lpips import BACKBONE, HEADS, LEAST, load_lpips
from idpersona.registry import get_weight
from idpersona.testing.measuring import FIRES, squeeze_states, write_measures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_measures(tmp_path_factory.mktemp("weights")) / "lpips-squeeze"


@pytest.fixture(scope="module")
def pictures() -> tuple[Image.Image, Image.Image]:
    from skimage.data import astronaut

    whole = Image.fromarray(astronaut())
    return whole.crop((150, 0, 278, 96)), whole.crop((160, 20, 288, 116))


def restated(a: Image.Image, b: Image.Image) -> float:
    """The paper's distance, in float64, from the tensors of the files."""
    state, heads = ({k: v.double() for k, v in part.items()} for part in squeeze_states())

    def conv(x: Tensor, name: str, **options: Any) -> Tensor:
        name = f"features.{name}"
        return F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **options))

    def features(picture: Image.Image) -> list[Tensor]:
        x = torch.from_numpy(np.array(picture)).double().permute(2, 0, 1)[None] / 255 * 2 - 1
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = conv((x - shift.double()[:, None, None]) / scale.double()[:, None, None], "0", stride=2)
        found = [x]
        for place in FIRES:
            if place - 1 in (2, 5, 8):
                x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
            x = conv(x, f"{place}.squeeze")
            x = torch.cat([conv(x, f"{place}.expand1x1"), conv(x, f"{place}.expand3x3", padding=1)], 1)
            if place not in (3, 6):
                found.append(x)
        return found

    total = 0.0
    for n, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        x, y = (z / (z.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for z in (x, y))
        total += float(((x - y) ** 2 * heads[f"lin{n}.model.1.weight"]).sum(1).mean())
    return total


def test_distance_is_the_papers(folder: Path, pictures: tuple[Image.Image, Image.Image]) -> None:
    distance = load_lpips(folder)
    a, b = pictures
    assert distance(a, a) == 0.0 == distance(b, b.copy())
    assert distance(a, b) == pytest.approx(restated(a, b), rel=1e-5)
    assert distance(b, a) == pytest.approx(distance(a, b), rel=1e-6) and distance(a, b) > 0.1


def test_sizes_that_cannot_be_compared_are_refused(folder: Path) -> None:
    distance = load_lpips(folder)
    least, less = Image.new("RGB", (LEAST, LEAST)), Image.new("RGB", (LEAST - 1, 64))
    assert distance(least, least) == 0.0
    for other in (less, Image.new("RGB", (64, 64))):
        with pytest.raises(BadInput, match="pictures of one size"):
            distance(less, other)


def written(place: Path, backbone: dict[str, Tensor], heads: Any) -> Path:
    place.mkdir()
    torch.save(backbone, place / BACKBONE)
    torch.save(heads, place / HEADS)
    return place


def test_other_files_are_refused_by_their_keys(tmp_path: Path) -> None:
    backbone, heads = squeeze_states()
    less = {k: v for k, v in backbone.items() if k != "features.9.squeeze.bias"}
    with pytest.raises(CheckpointError, match=rf"{BACKBONE} .*missing: features.9.squeeze.bias"):
        load_lpips(written(tmp_path / "less", less, heads))
    more = {**heads, "lin7.model.1.weight": torch.ones(1, 512, 1, 1)}
    with pytest.raises(CheckpointError, match=r"squeeze.pth .*unexpected: lin7.model.1.weight"):
        load_lpips(written(tmp_path / "more", backbone, more))
    other = {**heads, "lin0.model.1.weight": torch.ones(1, 192, 1, 1)}  # as for AlexNet
    with pytest.raises(CheckpointError, match=r"lin0.model.1.weight \[1, 192, 1, 1\] instead of \[1, 64"):
        load_lpips(written(tmp_path / "other", backbone, other))


class _Code:
    def __reduce__(self) -> Any:
        return os.system, ("echo code ran",)


def test_code_in_a_pickle_is_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    backbone, _ = squeeze_states()
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_lpips(written(tmp_path / "code", backbone, {"lin0.model.1.weight": _Code()}))
    assert "code ran" not in capfd.readouterr().out


def test_the_registry_finds_both_files_or_says_where_they_are(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(folder.parent))
    a = Image.new("RGB", (32, 32), "red")
    assert load_lpips()(a, a) == 0.0
    assert set(get_weight("lpips-squeeze").files) == {BACKBONE, HEADS}
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"fetch squeezenet1_1.*squeeze\.pth from https"):
        load_lpips()
    with pytest.raises(MissingWeights, match=rf"{BACKBONE} in {tmp_path}"):
        load_lpips(tmp_path)

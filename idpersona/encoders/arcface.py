"""Published ArcFace networks in torch, whose gradients reach the pixels: for losses, never for judging them.

Two layouts are read: ``iresnet`` of insightface's arcface_torch (18 to 200 layers; arXiv:1801.07698), and the
IR-SE network that e4e, pSp and the W+ adapter take their identity loss from (``model_ir_se50.pth``). Sizes
are read from the tensors. Their weights are for research, and are not shipped.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from idpersona.checkpoint import State, fill, only_tensors, read_tensors
from idpersona.encoders.differentiable import aligned
from idpersona.encoders.e4e import BackboneUnit
from idpersona.errors import CheckpointError

SIDE = 112
_FOUR = 4
"""Stages of either layout, each half as wide as the one before."""


class _Block(nn.Module):
    """Unit of ``iresnet``."""

    def __init__(self, channels_in: int, channels: int, stride: int, downsample: bool):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.prelu = nn.PReLU(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if downsample:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """RGB [B, 3, 112, 112] in [-1, 1] to embeddings [B, dim], not normalised.

    Args:
        blocks: units of each stage.
        widths: channels of the stem and of each stage.
        dim: length of an embedding.
    """

    def __init__(self, blocks: Sequence[int], widths: Sequence[int], dim: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.prelu = nn.PReLU(widths[0])
        for stage in range(_FOUR):
            units = [_Block(widths[stage], widths[stage + 1], 2, downsample=True)]
            units += [
                _Block(widths[stage + 1], widths[stage + 1], 1, downsample=False)
                for _ in range(blocks[stage] - 1)
            ]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*units))
        self.bn2 = nn.BatchNorm2d(widths[_FOUR])
        self.fc = nn.Linear(widths[_FOUR] * (SIDE // 2**_FOUR) ** 2, dim)
        self.features = nn.BatchNorm1d(dim)

    def forward(self, faces: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(faces)))
        for stage in range(_FOUR):
            x = getattr(self, f"layer{stage + 1}")(x)
        return self.features(self.fc(torch.flatten(self.bn2(x), 1)))


class IRSE(nn.Module):
    """The IR-SE network; as :class:`IResNet`, ``stages`` being (channels, units) of each."""

    def __init__(self, stem: int, stages: Sequence[tuple[int, int]], dim: int):
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, stem, 3, 1, 1, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)
        )
        units: list[nn.Module] = []
        before = stem
        for channels, count in stages:
            units += [BackboneUnit(channels if n else before, channels, 1 if n else 2) for n in range(count)]
            before = channels
        self.body = nn.Sequential(*units)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(before),
            nn.Dropout(),
            nn.Flatten(),
            nn.Linear(before * (SIDE // 2 ** len(stages)) ** 2, dim),
            nn.BatchNorm1d(dim),
        )

    def forward(self, faces: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(faces)))


class ArcFace(nn.Module):
    """Pictures and keypoints to unit embeddings; a frozen network, whose input gets gradients.

    Args:
        network: :class:`IResNet` or :class:`IRSE`.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> ArcFace:
        """Read a published file (``backbone.pth``, ``model_ir_se50.pth``, or the same as safetensors).

        Raises:
            CheckpointError: it is missing, damaged, holds more than tensors, or is of neither layout.
        """
        where = os.fspath(file)
        state = only_tensors(read_tensors(file), where)
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        with torch.device("meta"):
            network = _shaped(state, where)
        counters = {
            n: torch.zeros((), dtype=torch.long) for n in network.state_dict() if n.endswith("tracked")
        }
        return cls(fill(network, state | counters, where).float())

    def forward(self, pictures: Tensor, keypoints: Sequence[Any] | np.ndarray) -> Tensor:
        """Unit embeddings [B, dim] of RGB pictures [B, 3, H, W] in [-1, 1], the faces at ``keypoints``
        [B, 5, 2] in their pixels.

        Raises:
            BadInput: not one set of keypoints for each picture, or keypoints that cannot be aligned.
        """
        return F.normalize(self.network(aligned(pictures, keypoints, SIDE)), dim=1)


def _shaped(state: State, where: str) -> nn.Module:
    """The network that the tensors' names and shapes tell of."""
    try:
        if "layer1.0.conv1.weight" in state:
            blocks = [_count(state, rf"layer{stage + 1}\.(\d+)\.conv1\.weight") for stage in range(_FOUR)]
            widths = [len(state["conv1.weight"])]
            widths += [len(state[f"layer{stage + 1}.0.conv1.weight"]) for stage in range(_FOUR)]
            return IResNet(blocks, widths, len(state["fc.weight"]))
        if "input_layer.0.weight" in state:
            channels = [
                len(state[f"body.{n}.res_layer.1.weight"])
                for n in range(_count(state, r"body\.(\d+)\.res_layer\.1\.weight"))
            ]
            wide = sorted(set(channels))
            stages = [(width, channels.count(width)) for width in wide]
            return IRSE(len(state["input_layer.0.weight"]), stages, len(state["output_layer.3.weight"]))
    except (KeyError, IndexError, ValueError) as error:
        raise CheckpointError(f"{where} is an ArcFace network in part only: {error} is missing") from error
    raise CheckpointError(
        f"{where} is no ArcFace network: neither iresnet (layer1.0.conv1.weight) nor IR-SE "
        "(input_layer.0.weight)"
    )


def _count(state: State, pattern: str) -> int:
    return 1 + max(int(found[1]) for name in state if (found := re.fullmatch(pattern, name)))

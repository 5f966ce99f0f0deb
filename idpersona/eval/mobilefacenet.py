"""MobileFaceNet, restated from its paper so that a published checkpoint can serve as a judge.

Chen et al., "MobileFaceNets: Efficient CNNs for Accurate Real-Time Face Verification on Mobile Devices"
(arXiv:1804.07573), table 1. Trained on CASIA-WebFace with the 96x112 alignment of SphereFace
(arXiv:1704.08063).
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from idpersona.checkpoint import fill, only_tensors, read_tensors

# expansion, channels, repeats, first stride
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class _ConvUnit(nn.Module):
    """Convolution, batch norm and (unless ``linear``) PReLU; depthwise when ``groups`` is the width."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int = 0,
        *,
        groups: int = 1,
        linear: bool = False,
    ):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = nn.Identity() if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class _Bottleneck(nn.Module):
    """Inverted residual: widen, depthwise 3x3, narrow without activation."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        wide = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.PReLU(wide),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileFaceNet(nn.Module):
    """float [B, 3, 112, 96] RGB, ``(value - 127.5) / 128`` -> float [B, 128], not normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _ConvUnit(3, 64, 3, 2, 1)
        self.dw_conv1 = _ConvUnit(64, 64, 3, 1, 1, groups=64)
        blocks: list[nn.Module] = []
        width = 64
        for expansion, channels, repeats, first in _STAGES:
            for repeat in range(repeats):
                blocks.append(_Bottleneck(width, channels, first if repeat == 0 else 1, expansion))
                width = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _ConvUnit(128, 512, 1)
        self.linear7 = _ConvUnit(512, 512, (7, 6), groups=512, linear=True)
        self.linear1 = _ConvUnit(512, 128, 1, linear=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.dw_conv1(self.conv1(x)))
        return self.linear1(self.linear7(self.conv2(x))).flatten(1)

    @classmethod
    def from_checkpoint(cls, path: Path) -> MobileFaceNet:
        """Load ``{"net_state_dict": ...}``; raises CheckpointError that names what does not fit."""
        saved = read_tensors(path)
        return fill(cls(), only_tensors(saved.get("net_state_dict", saved), str(path)), str(path))

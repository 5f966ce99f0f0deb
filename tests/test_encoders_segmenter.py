"""The subject by a segmentation model: a tiny real Mask2Former whose answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from idpersona.encoders.segmenter import SIDE, load_segmenter, segment_subject
from idpersona.errors import BadInput, MissingWeights
from idpersona.testing.objects import tiny_segmenter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("segmenter")
    tiny_segmenter(sure=True).save_pretrained(place / "sure")
    tiny_segmenter(sure=False).save_pretrained(place / "blind")
    (place / "damaged").mkdir()
    (place / "damaged" / "config.json").write_text("{")
    return place


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    load_segmenter.cache_clear()


def photo(width: int = 100, height: int = 60) -> Image.Image:
    picture = Image.new("RGB", (width, height), (40, 90, 160))
    ImageDraw.Draw(picture).ellipse((30, 10, 75, 55), fill=(220, 180, 60))
    return picture


def test_the_most_central_mask_of_the_sure_queries(folder: Path) -> None:
    found = segment_subject(photo(), folder / "sure")
    assert found.shape == (60, 100)
    assert found.dtype == np.float32
    assert set(np.unique(found)) <= {0.0, 1.0}
    small = photo().resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    spread = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.no_grad():
        masks = load_segmenter(str(folder / "sure"))(
            pixel_values=(pixels - mean) / spread
        ).masks_queries_logits[0]
    grid = (torch.arange(masks.shape[-1]) + 0.5) / masks.shape[-1] - 0.5
    weight = torch.exp(-(grid[:, None] ** 2 + grid[None] ** 2) / (2 * 0.35**2))
    best = int(((masks > 0) * weight).sum((1, 2)).argmax())
    size = Image.fromarray((masks[best] > 0).numpy()).resize((100, 60), Image.Resampling.NEAREST)
    assert (np.asarray(size) == found).mean() > 0.97


def test_nothing_found(folder: Path) -> None:
    with pytest.raises(BadInput, match=r"found no subject.*--mask"):
        segment_subject(photo(), folder / "blind")


def test_no_model(folder: Path) -> None:
    with pytest.raises(MissingWeights, match="damaged"):
        segment_subject(photo(), folder / "damaged")

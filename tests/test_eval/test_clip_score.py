"""CLIPScore on a tiny CLIP: its definition, restated."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from idpersona.errors import CheckpointError, MissingWeights
from idpersona.eval.clip_score import load_clip_score
from idpersona.testing.measuring import tiny_clip, write_measures
from idpersona.testing.tokenizer import tiny_tokenizer

TEXTS = ("a photo of a cat.", "x", "ein Hund")
MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_measures(tmp_path_factory.mktemp("weights")) / "clip-vit-l14"


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    from skimage.data import astronaut

    whole = Image.fromarray(astronaut())
    return [whole.crop((150, 0, 290, 100)), whole.crop((300, 200, 400, 400)), whole]


def restated(picture: Image.Image, text: str) -> float:
    """100 cos, in float64, by the two halves of the model."""
    model = tiny_clip().double()
    short = min(picture.size)
    small = picture.resize((32 * picture.width // short, 32 * picture.height // short), Image.BICUBIC)
    left, top = (small.width - 32) // 2, (small.height - 32) // 2
    values = np.asarray(small)[top : top + 32, left : left + 32] / 255.0
    pixels = torch.from_numpy((values - MEAN) / SPREAD).permute(2, 0, 1)[None]
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(pixels).pooler_output)[0]
        ids = torch.tensor([tiny_tokenizer()(text).input_ids])
        read = model.text_projection(model.text_model(ids).pooler_output)[0]
    return 100 * float(seen @ read / (seen.norm() * read.norm()))


def test_score_is_the_cosine_and_at_least_0(folder: Path, pictures: list[Image.Image]) -> None:
    score = load_clip_score(folder)
    wanted = [[restated(picture, text) for picture in pictures] for text in TEXTS]
    found = [score(pictures, text) for text in TEXTS]
    assert np.allclose(found, wanted, atol=1e-3) and 0 < np.min(wanted) < np.max(wanted) < 100
    with torch.no_grad():
        score.model.text_projection.weight.neg_()
    assert score(pictures, TEXTS[0]) == [0.0, 0.0, 0.0]


def test_a_picture_scores_as_it_does_alone(folder: Path, pictures: list[Image.Image]) -> None:
    score = load_clip_score(folder)
    together = score(pictures, TEXTS[0])
    assert together == pytest.approx([score([one], TEXTS[0])[0] for one in pictures], abs=1e-3)


def test_texts_are_cut_at_what_clip_reads(folder: Path, pictures: list[Image.Image]) -> None:
    score = load_clip_score(folder)
    long = "cat " * 100
    assert score(pictures, long) == score(pictures, long + "dog")


def test_other_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="holds no CLIPModel"):
        load_clip_score(tmp_path)
    place = tmp_path / "clip"
    shutil.copytree(folder, place)
    state = load_file(folder / "model.safetensors")
    state["text_projection.weight"] = torch.ones(8, 32)
    del state["visual_projection.weight"]
    save_file(state, place / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"visual_projection.weight; misshapen: text_projection.weight"):
        load_clip_score(place)
    shutil.copy2(folder / "model.safetensors", place)
    for file in place.glob("*token*"):
        file.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer knows . tokens and its model 514"):
        load_clip_score(place)

"""Rewards: what they say of pictures, whom their gradients reach, and what pleases none of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPVisionModelWithProjection

from idpersona.errors import BadInput, CheckpointError, MissingWeights
from idpersona.eval.clip_score import load_clip_score
from idpersona.eval.judges import get_judge
from idpersona.images import open_photo
from idpersona.pixels import to_pictures, to_tensor
from idpersona.testing.measuring import write_measures
from idpersona.training.objectives.face_reader import DLIB, FaceReader, find_faces
from idpersona.training.objectives.rewards import Aesthetic, FaceSimilarity, TextSimilarity, Wanted

TEXTS = ("a photo of a cat.", "x")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_measures(tmp_path_factory.mktemp("weights")) / "clip-vit-l14"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("heads") / "sa_0_4_vit_l_14_linear.pth"
    torch.save(nn.Linear(16, 1).state_dict(), path)
    return path


def pictures(side: int = 32) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 3, side, side) * 2 - 1


def nobody(count: int) -> Wanted:
    return Wanted(torch.zeros(count, 4), TEXTS[:count], [None] * count)


def portraits() -> Tensor:
    """Two people, and noise."""
    found = [np.asarray(open_photo(f"sample:person-{n}").resize((128, 128))) for n in (1, 2)]
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3)).astype(np.uint8)
    return to_tensor([*found, noise])


def test_a_face_is_like_itself_and_what_shows_none_counts_nothing() -> None:
    shown = portraits()
    points = find_faces(shown)
    assert [place is None for place in points] == [False, False, True]
    reader = FaceReader.open(DLIB)
    known = reader.where_found(shown, points, 128)
    assert torch.allclose(known.norm(dim=1), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5)
    someone = known[:1].expand(3, -1)
    shown.requires_grad_()
    reward = FaceSimilarity(reader)(shown, Wanted(someone, TEXTS, points))
    found = reward.detach()
    assert found[0] == pytest.approx(1, abs=1e-5) and found[1] < 0.8 and found[2] == 0
    reward.sum().backward()
    assert shown.grad is not None and bool(shown.grad[1].any()) and not bool(shown.grad[2].any())
    wanted = Wanted(torch.stack([known[0], torch.zeros(128), known[0]]), TEXTS, points)
    assert FaceSimilarity(reader)(shown, wanted)[1] == 0 and wanted.faces() == [0]


def test_the_judge_reads_as_the_evaluation_does() -> None:
    shown = portraits()[:2]
    points = find_faces(shown)
    read = FaceReader.held_out("mini-judge").where_found(shown, points, 128)
    wanted = get_judge("mini-judge").embed(to_pictures(shown), [np.asarray(p) for p in points])
    assert torch.allclose(read, F.normalize(torch.from_numpy(wanted), dim=1), atol=0.02)
    assert float((read * F.normalize(torch.from_numpy(wanted), dim=1)).sum(dim=1).min()) > 0.999
    with pytest.raises(MissingWeights, match="no face network mini-judge"):
        FaceReader.open("mini-judge")  # a judge enters no loss


def test_the_aesthetic_head_reads_unit_embeddings(clip: Path, head: Path, tmp_path: Path) -> None:
    shown = pictures().requires_grad_()
    reward = Aesthetic(clip, head)(shown, nobody(2))
    model = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    mean, spread = (
        torch.tensor(part).view(1, 3, 1, 1)
        for part in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    with torch.no_grad():
        seen = model(((shown + 1) / 2 - mean) / spread).image_embeds
        state = torch.load(head, weights_only=True)
        wanted = (seen / seen.norm(dim=1, keepdim=True)) @ state["weight"][0] + state["bias"]
    assert torch.allclose(reward, wanted, atol=1e-5) and bool(reward[0] != reward[1])
    reward.sum().backward()
    assert shown.grad is not None and bool(shown.grad.any())
    # CLIP's vision half alone will do, and safetensors.
    model.save_pretrained(tmp_path / "vision")
    save_file(state, tmp_path / "head.safetensors")
    alone = Aesthetic(tmp_path / "vision", tmp_path / "head.safetensors")(shown, nobody(2))
    assert torch.allclose(alone, reward, atol=1e-6)
    # Of a picture that is not square the middle is seen.
    wide = torch.cat([torch.zeros(2, 3, 32, 8), shown.detach(), torch.ones(2, 3, 32, 8)], dim=3)
    assert torch.allclose(Aesthetic(clip, head)(wide, nobody(2)), reward, atol=1e-5)


def test_the_text_reward_is_clip_score(clip: Path) -> None:
    shown = pictures()
    small = to_tensor([np.asarray(picture) for picture in to_pictures(shown)])
    reward = TextSimilarity(clip)(small.requires_grad_(), nobody(2))
    score = load_clip_score(clip)
    wanted = [score([picture], text)[0] for picture, text in zip(to_pictures(small), TEXTS, strict=True)]
    assert [100 * max(0.0, float(value)) for value in reward.detach()] == pytest.approx(wanted, abs=1e-3)
    reward.sum().backward()
    assert small.grad is not None and bool(small.grad.any())


def test_absent_or_wrong_weights_are_named(clip: Path, head: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="no aesthetic head"):
        Aesthetic(clip, tmp_path / "none.pth")
    with pytest.raises(MissingWeights, match=r"no config\.json"):
        Aesthetic(tmp_path, head)
    torch.save(nn.Linear(768, 1).state_dict(), tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match=r"weight \[1, 768\] instead of \[1, 16\]"):
        Aesthetic(clip, tmp_path / "wide.pth")
    CLIPVisionModelWithProjection.from_pretrained(clip).save_pretrained(tmp_path / "vision")
    with pytest.raises((CheckpointError, BadInput), match="missing"):
        TextSimilarity(tmp_path / "vision")

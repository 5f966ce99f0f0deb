"""Judges, classifiers and finders: the development ones are checked where their files are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idpersona.encoders.attributes import get_classifier
from idpersona.errors import BadInput, CheckpointError, MissingWeights, UnknownName
from idpersona.eval.finders import RememberedFaces, get_finder
from idpersona.eval.judges import get_judge, judge_names
from idpersona.eval.metrics import cosines, own_and_others, prototype
from idpersona.eval.mobilefacenet import MobileFaceNet
from idpersona.training.data.archives import PhotoStore

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("IDPERSONA_SHARED", ROOT.parent / "shared"))
needs_shared = pytest.mark.skipif(
    not (SHARED / "weights" / "face_recognition").is_dir(), reason=f"no development weights in {SHARED}"
)


def test_unknown_names_offer_the_nearest() -> None:
    assert judge_names() == ["mini-judge", "mobilefacenet"]
    with pytest.raises(UnknownName, match="mini-judge"):
        get_judge("mini-jugde")
    with pytest.raises(UnknownName, match="attr-judge"):
        get_classifier("attr")
    with pytest.raises(UnknownName, match="yunet"):
        get_finder("yunett")


def test_a_missing_development_file_says_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDPERSONA_SHARED", str(tmp_path))
    with pytest.raises(MissingWeights, match="mini-judge"):
        get_judge("mobilefacenet")
    with pytest.raises(MissingWeights, match="dlib"):
        get_finder("yunet")


def test_mobilefacenet_names_what_does_not_fit(tmp_path: Path) -> None:
    import torch

    model = MobileFaceNet()
    state = model.state_dict()
    torch.save({"net_state_dict": state}, tmp_path / "whole.ckpt")
    loaded = MobileFaceNet.from_checkpoint(tmp_path / "whole.ckpt")
    assert not loaded.training
    assert loaded(torch.zeros(2, 3, 112, 96)).shape == (2, 128)
    state.pop("linear1.conv.weight")
    torch.save({"net_state_dict": state}, tmp_path / "part.ckpt")
    with pytest.raises(CheckpointError, match=r"missing: linear1\.conv\.weight"):
        MobileFaceNet.from_checkpoint(tmp_path / "part.ckpt")


def test_a_judge_sees_the_face_not_where_it_stands(judge: Any, finder: Any, store: PhotoStore) -> None:
    photo = store.open("lfw_160/P0/P0_0001.png")
    face = finder.find(photo)
    moved = Image.new("RGB", (260, 260))
    moved.paste(photo, (60, 30))
    near, far = judge.embed([photo, moved], [face.keypoints, face.keypoints + np.array([60, 30])])
    elsewhere = judge.embed([photo], [face.keypoints + np.array([25, 25])])[0]
    inside = cosines(near[None], np.stack([far, elsewhere]))[0]
    assert inside[0] > 0.99 and inside[0] > inside[1]
    assert judge.embed([], []).shape[0] == 0


def test_classifier_reads_columns_by_label(classifier: Any, noise_picture: Image.Image) -> None:
    pictures = [noise_picture, Image.new("RGB", (128, 128), "white")]
    probabilities = classifier.probabilities(pictures)
    assert probabilities.shape == (2, 3) and (probabilities >= 0).all() and (probabilities <= 1).all()
    assert np.array_equal(classifier.says(pictures, "Male"), probabilities[:, 1] > 0.5)
    with pytest.raises(BadInput, match="does not know the attribute Bald"):
        classifier.says(pictures, "Bald")


def test_finder_says_none_without_a_face_and_remembers(
    finder: Any,
    store: PhotoStore,
    noise_picture: Image.Image,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert finder.find(noise_picture) is None
    file = "lfw_160/P0/P0_0001.png"
    photo = store.open(file)
    first = RememberedFaces(finder, tmp_path)
    face = first.find(file, photo)
    assert face is not None and first.find("empty", noise_picture) is None
    first.save()
    second = RememberedFaces(finder, tmp_path)
    monkeypatch.setattr(finder, "find", lambda _: pytest.fail("looked at again"))
    again = second.find(file, photo)
    assert again is not None and np.array_equal(again.keypoints, face.keypoints)
    assert second.find("empty", noise_picture) is None
    # Another photo under the old name is another photo.
    monkeypatch.undo()
    assert second.find(file, noise_picture) is None


@pytest.mark.shared
@needs_shared
def test_yunet_finds_the_points_dlib_finds(finder: Any, store: PhotoStore) -> None:
    photo = store.open("lfw_160/P0/P0_0001.png")
    ours, theirs = finder.find(photo), get_finder("yunet").find(photo)
    assert theirs is not None
    apart = np.linalg.norm(ours.keypoints - theirs.keypoints, axis=1)
    assert apart.max() < 0.05 * photo.width, "order and scale of the points must agree"


@pytest.mark.shared
@needs_shared
@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no photos in {SHARED}")
def test_mobilefacenet_knows_people_it_never_saw() -> None:
    from idpersona.training.data.split import load_split

    store, finder, judge = PhotoStore(SHARED / "data"), get_finder("yunet"), get_judge("mobilefacenet")
    wild = [f for f in load_split().validation.values() if f[0].startswith("celeba_wild") and len(f) >= 8]
    references, prototypes = [], []
    for files in wild[:12]:
        photos = [store.open(file) for file in files[:8]]
        found = [(photo, face) for photo in photos if (face := finder.find(photo)) is not None]
        embeddings = judge.embed([p for p, _ in found], [f.keypoints for _, f in found])
        references.append(embeddings[0])
        prototypes.append(prototype(embeddings[1:]))
    table = cosines(np.stack(references), np.stack(prototypes))
    own, others = own_and_others(table, np.arange(len(table)))
    assert own.mean() > 0.6 and abs(others.mean()) < 0.1
    assert (table.argmax(axis=1) == np.arange(len(table))).mean() > 0.9

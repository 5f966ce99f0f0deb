"""From archives to the cache, and from the cache to the parts of the split."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from idpersona import read_identity
from idpersona.encoders import get_encoder
from idpersona.errors import BadInput, MissingWeights
from idpersona.images import open_photo
from idpersona.training.data import prepare as preparing
from idpersona.training.data.archives import SOURCES, read_table
from idpersona.training.data.faces import FaceData
from idpersona.training.data.framing import SIDE, frame
from idpersona.training.data.split import load_split


def test_the_table_is_read(archives):
    rows = read_table(archives.root)
    assert [r["file"] for r in rows] == archives.files
    assert [r["identity"] for r in rows] == archives.people


def test_a_missing_table_names_the_variable(tmp_path):
    with pytest.raises(MissingWeights, match="IDPERSONA_DATA"):
        read_table(tmp_path)


def test_unpacked_photos_stand_in_the_order_of_the_table(archives, tmp_path):
    for source in SOURCES:
        rows = archives.rows(source)
        preparing.unpack(source, [archives.files[r] for r in rows], archives.root, tmp_path / "x.npy")
        photos = np.load(tmp_path / "x.npy")
        assert len(photos) == len(rows)
        for photo, row in zip(photos, rows, strict=True):
            assert np.array_equal(photo, np.asarray(archives.pictures[row]))


def test_a_photo_that_the_archive_lacks_is_named(archives, tmp_path):
    files = [archives.files[r] for r in archives.rows("lfw")]
    with pytest.raises(MissingWeights, match=r"lacks 1 photos, first lfw_160/nobody\.png"):
        preparing.unpack("lfw", [*files, "lfw_160/nobody.png"], archives.root, tmp_path / "x.npy")
    assert not (tmp_path / "x.npy").exists()


def test_a_missing_archive_names_the_variable(tmp_path):
    with pytest.raises(MissingWeights, match=r"faces_lfw\.tar.*IDPERSONA_DATA"):
        preparing.unpack("lfw", ["x"], tmp_path, tmp_path / "x.npy")


def test_photos_in_another_order_are_other_archives(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("IDPERSONA_CACHE", str(tmp_path))
    files = [archives.files[r] for r in archives.rows("celeba_wild")]
    preparing.unpack("celeba_wild", files[::-1], archives.root, tmp_path / "celeba_wild.npy")
    (tmp_path / "celeba_wild.sha256").write_text("of the files in that order")
    with pytest.raises(BadInput, match=r"celeba_wild\.npy was made of other archives"):
        preparing.prepare(workers=1)


def test_damaged_archives_are_one_line(archives, tmp_path):
    (tmp_path / "faces.csv.gz").write_bytes((archives.root / "faces.csv.gz").read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"faces\.csv\.gz is damaged"):
        read_table(tmp_path)
    (tmp_path / "faces_lfw.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(BadInput, match=r"faces_lfw\.tar is damaged"):
        preparing.unpack("lfw", ["x"], tmp_path, tmp_path / "x.npy")


def test_a_cache_of_other_archives_is_refused(archives, tmp_path, monkeypatch):
    monkeypatch.setenv("IDPERSONA_CACHE", str(tmp_path))
    np.savez(
        tmp_path / "celeba_wild.faces.npz",
        keypoints=np.zeros((1, 5, 2)),
        descriptors=np.zeros((1, 128)),
        found=np.ones(1, bool),
    )
    with pytest.raises(BadInput, match="other archives"):
        preparing.prepare(workers=1)


def test_parts_are_disjoint_and_leave_out_whom_they_should(archives, cache):
    train, held_out, everyone = (FaceData.open(part) for part in ("train", "validation", "all"))
    split = load_split()
    assert set(held_out.identities) == set(archives.people) & set(split.validation) != set()
    assert not set(train.identities) & set(split.validation)
    assert "look-alike" in everyone.identities and "look-alike" not in train.identities
    assert "lfw:l0" in archives.people and "lfw:l0" not in everyone.identities  # no face was found
    assert len(everyone) == len(archives.files) - 1 == len(train) + len(held_out) + 1


def test_a_row_is_one_photo_with_its_own_facts(archives, cache):
    faces = FaceData.open("all")
    for row, file in enumerate(faces.files):
        drawn = archives.files.index(file)
        assert np.array_equal(faces.photo(row), np.asarray(archives.pictures[drawn]))
        assert np.array_equal(faces.descriptors[row], archives.descriptors[drawn])
        for name, value in zip(faces.attribute_names, faces.attributes[row], strict=True):
            assert value == archives.attributes[drawn].get(name, -1)
        framed, _ = frame(archives.pictures[drawn], archives.keypoints[drawn])
        assert np.array_equal(faces.framed(row), np.asarray(framed))


def test_random_framings_move_the_points_with_the_face(cache):
    faces = FaceData.open("train")
    plain = frame(Image.fromarray(faces.photo(0)), faces.keypoints[0])[1]
    near = [faces.framed_random(0, np.random.default_rng(s), wide=False)[1] for s in range(20)]
    wide = [faces.framed_random(0, np.random.default_rng(s), wide=True)[1] for s in range(20)]

    def distance(points):
        return np.mean([np.abs(p.mean(0) - plain.mean(0)).max() for p in points])

    assert 0 < distance(near) < 0.04 * SIDE < distance(wide) < 0.2 * SIDE
    assert all(points[0, 0] < points[1, 0] for points in near), "the left eye stays left when flipped"


def test_no_cache_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("IDPERSONA_CACHE", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"python -m idpersona\.training\.data\.prepare"):
        FaceData.open("train")


def test_dlib_finds_the_subject_and_not_a_bystander(tmp_path):
    photo = open_photo("sample:astronaut")
    (face, *_) = get_encoder("dlib").detect(photo)
    x0, y0, x1, _ = face.box
    side = (x1 - x0) / 0.57  # the share of the width that a face takes in this set
    left, top = (x0 + x1) / 2 - side / 2, (y0 + x1 - x0 + y0) / 2 - 0.55 * side
    subject = photo.transform(
        (160, 160), Image.Transform.EXTENT, (left, top, left + side, top + side), Image.Resampling.BICUBIC
    )
    bystander = photo.resize((160, 160), Image.Resampling.LANCZOS)
    array = np.stack([np.asarray(p) for p in (bystander, subject, Image.new("RGB", (160, 160), "gray"))])
    np.save(tmp_path / "lfw.npy", array)
    keypoints, descriptors, found = preparing.describe(("lfw", tmp_path / "lfw.npy", 0, 3))
    assert found.tolist() == [False, True, False]
    wanted = (face.keypoints - [left, top]) * 160 / side
    assert np.abs(keypoints[1] - wanted).max() < 4
    whole = read_identity(photo, encoder="dlib").feature("dlib").values
    assert np.linalg.norm(descriptors[1] - whole) < 0.3
    assert not descriptors[0].any() and not keypoints[2].any()
    only = preparing.describe(("lfw", tmp_path / "lfw.npy", 1, 2))
    assert np.array_equal(only[1][0], descriptors[1])

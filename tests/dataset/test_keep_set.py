"""Pictures on either side of every rule, through a real detector: exactly the documented ones are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from idpersona.encoders import get_encoder
from idpersona.testing.command import Run

from .conftest import compose, jpeg

SIDE = 680


def area_heights() -> tuple[int, int]:
    """Heights of the picture at which the face covers 4.1 % and 3.9 % of it.

    The picture's long side stays the same and with it what the detector sees; only the ground below grows.
    """
    picture = compose((SIDE, SIDE), 30, ("person-3", 190, 40, 200))
    (face,) = get_encoder("dlib").detect(picture)
    return round(face.area / (0.041 * SIDE)), round(face.area / (0.039 * SIDE))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    size = (720, 520)
    enough, little = area_heights()
    pictures = {
        "faces-0": compose(size, 20),
        "faces-1": compose(size, 21, ("person-1", 230, 30, 200)),
        "faces-3": compose(
            size, 22, ("person-2", 230, 10, 200), ("person-3", 150, 260, 150), ("person-1", 150, 430, 250)
        ),
        "faces-4": compose(
            size,
            23,
            ("person-4", 230, 10, 200),
            ("person-3", 150, 245, 150),
            ("person-1", 150, 400, 250),
            ("person-2", 150, 560, 150),
        ),
        "area-41": compose((SIDE, SIDE), 30, ("person-3", 190, 40, 200)).crop((0, 0, SIDE, enough)),
        "area-39": compose((SIDE, SIDE), 30, ("person-3", 190, 40, 200)).crop((0, 0, SIDE, little)),
        "side-512": compose((600, 512), 24, ("astronaut", 300, 40, 210)),
        "side-511": compose((600, 511), 25, ("astronaut", 300, 240, 20)),
        "words-yes": compose(size, 26, ("person-4", 230, 300, 30)),
        "words-no": compose(size, 27, ("person-4", 230, 30, 30)),
        "words-none": compose(size, 28, ("person-4", 230, 400, 200)),
    }
    assert min(enough, little) >= 512
    for name, picture in pictures.items():
        picture.save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a photo of two women")
    (folder / "words-no.txt").write_text("a red car manual on the table")
    (folder / "words-none.txt").unlink()
    (folder / "damaged.jpg").write_bytes(jpeg(pictures["faces-1"])[:2000])
    (folder / "no-picture.png").write_text("nothing to see")
    copy = pictures["faces-1"].resize((709, 512))
    (folder / "faces-1-again.jpg").write_bytes(jpeg(copy, 60))
    (folder / "faces-1-again.txt").write_text("a man")
    return folder


def test_exactly_the_documented_photos_are_kept(run: Run, photos: Path, tmp_path: Path) -> None:
    run("dataset", "build", photos, "-o", tmp_path / "set").done()
    lines = (tmp_path / "set" / "metadata.jsonl").read_text().splitlines()
    kept = {row["file_name"]: row for row in map(json.loads, lines)}
    assert sorted(kept) == [
        f"images/{n}.png" for n in ("area-41", "faces-1", "faces-3", "side-512", "words-yes")
    ]
    lines = (tmp_path / "set" / "rejected.jsonl").read_text().splitlines()
    rejected = {row["file"]: (row["rule"], row["reason"]) for row in map(json.loads, lines)}
    assert len(rejected) == len(lines)
    rule, reason = rejected.pop("area-39.png")
    assert rule == "face-area" and re.fullmatch(r"face area 3\.(8[5-9]|9[0-4]?) % of at least 4 %", reason)
    rule, reason = rejected.pop("damaged.jpg")
    assert rule == "readable" and reason.startswith("the photo is damaged or cut off")
    rule, reason = rejected.pop("no-picture.png")
    assert rule == "readable" and reason.startswith("the photo is not an image of a known kind")
    assert rejected == {
        "faces-0.png": ("faces", "0 faces of 1 to 3"),
        "faces-4.png": ("faces", "4 faces of 1 to 3"),
        "side-511.png": ("side", "side 511 of at least 512"),
        "words-no.png": ("caption", "no word for a person in 'a red car manual on the table'"),
        "words-none.png": ("caption", "no caption"),
        "faces-1-again.jpg": ("near-duplicate", "near-duplicate of faces-1.png"),
    }
    assert 0.0405 < kept["images/area-41.png"]["face_area"] < 0.0415
    assert [kept[f"images/{name}.png"]["faces"] for name in ("faces-1", "faces-3")] == [1, 3]
    about = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert about["counts"]["photos"] == 14 and about["counts"]["kept"] == 5
    assert about["counts"]["rejected"] == {
        "readable": 2,
        "side": 1,
        "caption": 2,
        "faces": 2,
        "face-area": 1,
        "near-duplicate": 1,
    }
    assert list(about["counts"]["rejected"]) == [
        r for r in about["rules"] if r in about["counts"]["rejected"]
    ]


def test_other_limits_keep_others(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ("--caption", "any", "--faces", "4", "--min-side", 500, "--face-area", 0.03)
    run("dataset", "build", photos, "-o", tmp_path / "set", *words).done()
    lines = (tmp_path / "set" / "metadata.jsonl").read_text().splitlines()
    assert [json.loads(line)["file_name"] for line in lines] == ["images/faces-4.png"]

"""Each rule at its very limit, and the words for people."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from idpersona import read_identity
from idpersona.encoders import get_encoder
from idpersona.encoders.base import Face, FaceEncoder, Faces
from idpersona.errors import BadInput
from idpersona.images import OpenedPhoto, open_photo
from idpersona.safety.people import People, Person
from idpersona.training.data.builder.rules import (
    ORDER,
    Caption,
    Consent,
    FaceArea,
    FaceCount,
    Landmarks,
    Registry,
    Seen,
    Side,
    make_rules,
)
from idpersona.training.data.builder.settings import BuildSettings, parse_faces, parse_shard
from idpersona.training.data.builder.source import caption_of, consent_of, text_of
from idpersona.training.data.builder.words import person_word


@pytest.fixture(scope="module")
def encoder() -> FaceEncoder:
    found = get_encoder("dlib")
    assert isinstance(found, FaceEncoder)
    return found


def seen(encoder: FaceEncoder, size: tuple[int, int] = (100, 100), *boxes: tuple[float, ...], **said) -> Seen:
    """A photo in which faces with these boxes were found."""
    opened = OpenedPhoto(Image.new("RGB", size), "photo", "0" * 64)
    photo = Seen(opened, said.get("caption", ""), said.get("consent", False), encoder)
    points = said.get("points", np.full((5, 2), 50.0, np.float32))
    photo.faces = Faces([Face(box, points, said.get("score", 1.0)) for box in boxes])  # type: ignore[misc]
    return photo


def test_sides(encoder: FaceEncoder) -> None:
    assert Side(512).refuses(seen(encoder, (512, 900))) is None
    assert Side(512).refuses(seen(encoder, (900, 511))) == "side 511 of at least 512"


@pytest.mark.parametrize(("count", "reason"), [(0, "0 faces of 1 to 3"), (4, "4 faces of 1 to 3")])
def test_too_few_and_too_many_faces(encoder: FaceEncoder, count: int, reason: str) -> None:
    assert FaceCount(1, 3).refuses(seen(encoder, (100, 100), *[(0, 0, 9, 9)] * count)) == reason


def test_faces_that_are_enough(encoder: FaceEncoder) -> None:
    for count in (1, 3):
        assert FaceCount(1, 3).refuses(seen(encoder, (100, 100), *[(0, 0, 9, 9)] * count)) is None
    assert FaceCount(2, 2).refuses(seen(encoder, (100, 100), (0, 0, 9, 9))) == "1 face of 2"


def test_the_area_counts_inside_the_picture(encoder: FaceEncoder) -> None:
    assert FaceArea(0.04).refuses(seen(encoder, (100, 100), (10, 10, 30, 30))) is None
    refused = FaceArea(0.04).refuses(seen(encoder, (100, 100), (10, 10, 30, 29.999)))
    assert refused == "face area 3.99 % of at least 4 %"
    assert FaceArea(0.04).refuses(seen(encoder, (100, 100), (-20, 10, 10, 30))) is not None


def test_a_face_that_may_be_none_is_none(encoder: FaceEncoder) -> None:
    # Turned so far that the detector finds it, but not for sure.
    photo = open_photo("sample:astronaut").crop((130, 20, 330, 220)).rotate(46, Image.Resampling.BICUBIC)
    (found,) = encoder.detect(photo)
    assert found.score < encoder.sure_score
    assert list(Seen(OpenedPhoto(photo, "photo", ""), "", False, encoder).faces) == []


def test_landmarks_lie_inside(encoder: FaceEncoder) -> None:
    points = np.array([[0, 0], [99, 0], [50, 50], [0, 99], [99, 99]], np.float32)
    assert Landmarks().refuses(seen(encoder, (100, 100), (0, 0, 99, 99), points=points)) is None
    points = points + np.array([0.5, 0], np.float32)
    refused = Landmarks().refuses(seen(encoder, (100, 100), (0, 0, 99, 99), points=points))
    assert refused == "2 of 5 landmarks outside of the picture"


def test_consent_and_caption(encoder: FaceEncoder) -> None:
    assert Consent().refuses(seen(encoder, consent=True)) is None
    assert Consent().refuses(seen(encoder)) == "no consent"
    assert Caption().refuses(seen(encoder, caption="Two women at a table")) is None
    assert Caption().refuses(seen(encoder)) == "no caption"
    assert "car" in (Caption().refuses(seen(encoder, caption="a car" + " and a car" * 20)) or "")


@pytest.mark.parametrize(
    ("caption", "word"),
    [
        ("Two WOMEN at a table", "WOMEN"),
        ("the boy's hat", "boy"),
        ("policewomen on horses", "policewomen"),
        ("spies and thieves", "spies"),
        ("waitresses", "waitresses"),
        ("a Polish dancer", "Polish"),
        ("nail polish", None),
        ("a manual of womanly humanity", None),
        ("german shepherd", "german"),
        ("Ärztin mit Hut", None),
        ("a fiancée in white", "fiancée"),
        ("", None),
    ],
)
def test_words_for_people(caption: str, word: str | None) -> None:
    assert person_word(caption) == word


def test_rules_are_asked_in_the_documented_order() -> None:
    settings = BuildSettings(source="photos", require_consent=True)
    names = [rule.name for rule in make_rules(settings, People())]
    assert names == [name for name in ORDER if name not in ("readable", "near-duplicate")]
    names = [rule.name for rule in make_rules(BuildSettings(source="photos", caption="any"), People())]
    assert "caption" not in names and "consent" not in names


def test_refused_people(encoder: FaceEncoder) -> None:
    photo = open_photo("sample:astronaut")
    vector = read_identity("sample:astronaut").features["dlib"].values[0]
    someone = read_identity("sample:person-3").features["dlib"].values[0]

    def refuses(people: People) -> str | None:
        return Registry(people).refuses(Seen(OpenedPhoto(photo, "photo", ""), "", False, encoder))

    denied = Person("Eileen", "deny", {"dlib": vector}, 5, contact="eileen@example.org")
    reason = refuses(People((denied,)))
    assert reason is not None and "Eileen" in reason and "deny list" in reason
    assert refuses(People()) is None
    assert refuses(People((Person("Somebody", "deny", {"dlib": someone}, 5),))) is None
    reason = refuses(People((Person("Somebody", "allow", {"dlib": someone}, 5),), others="deny"))
    assert reason is not None and "nobody on the allow list" in reason
    assert refuses(People((Person("Eileen", "allow", {"dlib": vector}, 5),), others="deny")) is None


def test_what_metadata_say() -> None:
    assert caption_of({"text": " a\nman ", "prompt": "no"}, "") == "a man"
    assert caption_of({"text": "a man", "said": ["first", "second"]}, "said") == "first"
    assert caption_of({"caption": 3}, "") == ""
    assert [consent_of({"consent": value}, False) for value in (True, "Yes", 1, "signed")] == [True] * 3 + [
        False
    ]
    assert consent_of({"consent": "no"}, True) is False and consent_of({"consent": ""}, True) is True
    assert text_of({"licence": " ", "license": "CC0"}, ("licence", "license"), "") == "CC0"


def test_settings_are_checked() -> None:
    assert parse_faces("1-3") == (1, 3) and parse_faces("2") == (2, 2)
    assert parse_shard("2/8") == (2, 8)
    for text in ("", "a-b", "1-", "-3"):
        with pytest.raises(BadInput, match="--faces"):
            parse_faces(text)
    for text in ("0/2", "3/2", "1"):
        with pytest.raises(BadInput, match="--shard"):
            parse_shard(text)
    for changed, option in (
        ({"faces": (0, 3)}, "--faces"),
        ({"faces": (3, 1)}, "--faces"),
        ({"min_side": 0}, "--min-side"),
        ({"face_area": 1.0}, "--face-area"),
        ({"face_area": float("nan")}, "--face-area"),
        ({"same_person": 0.0}, "--same-person"),
        ({"pairs_per_photo": -1}, "--pairs-per-photo"),
        ({"licence": "a\nb"}, "--licence"),
        ({"source": ""}, "SRC"),
    ):
        with pytest.raises(BadInput, match=option):
            BuildSettings(**{"source": "photos", **changed})  # type: ignore[arg-type]
    one, other = BuildSettings(source="a"), BuildSettings(source="b", pairs_per_photo=1, same_person=0.4)
    assert one.reading() == other.reading() != BuildSettings(source="a", min_side=1).reading()

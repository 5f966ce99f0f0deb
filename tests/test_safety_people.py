"""The people registry: file, matching, and the gate on identities."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from idpersona.encoders import Face, Faces, read_identity, register_encoder, release_encoders
from idpersona.encoders.catalogue import _ENTRIES
from idpersona.errors import BadInput, ConsentRequired, PeopleFileError, PersonRefused, UnknownName
from idpersona.identity import Feature, Identity
from idpersona.safety.gate import check_identity, read_allowed, require_consent
from idpersona.safety.people import KEY, People, Person, Policy, cover, load_people, people_path
from idpersona.safety.thresholds import get_threshold

LIMIT = get_threshold("dlib").distance


def vector(seed: int, dim: int = 128) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=dim)
    return (1.3 * values / np.linalg.norm(values)).astype(np.float32)


def person(name: str = "Ada", seed: int = 1, policy: Policy = "deny", **more: str) -> Person:
    return Person(name, policy, {"dlib": vector(seed)}, photos=5, **more)


def identity(*rows: np.ndarray, encoder: str = "dlib", consent: bool = False, kind: str = "face") -> Identity:
    feature = Feature(encoder, np.stack(rows))
    return Identity(kind, {encoder: feature}, consent=consent)


def near(values: np.ndarray, distance: float, seed: int = 99) -> np.ndarray:
    step = vector(seed)
    return (values + distance * step / np.linalg.norm(step)).astype(np.float32)


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "people.safetensors"
    people = People((person(contact="a@b.c", expires="2999-01-01"), person("Bo", 2, "allow")), others="deny")
    people.save(path)
    read = People.load(path)
    assert [entry.describe() for entry in read.entries] == [entry.describe() for entry in people.entries]
    assert read.others == "deny"
    assert np.array_equal(read.entries[1].centroids["dlib"], vector(2))
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("tamper", ["policy", "centroid", "digest", "cut", "random", "newer", "empty"])
def test_damaged_or_edited_file_is_refused(tmp_path, tamper):
    path = tmp_path / "people.safetensors"
    People((person(),)).save(path)
    from safetensors import safe_open

    tensors = load_file(path)
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
    content = json.loads(metadata[KEY])
    if tamper == "policy":
        content["people"][0]["policy"] = "allow"
    if tamper == "newer":
        content["version"] = 99
    if tamper == "centroid":
        tensors["0.dlib"] = tensors["0.dlib"] + 1
    if tamper == "digest":
        metadata["sha256"] = "0" * 64
    save_file(tensors, path, {**metadata, KEY: json.dumps(content)})
    if tamper == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    if tamper == "random":
        path.write_bytes(np.random.default_rng(0).bytes(4000))
    if tamper == "empty":
        path.write_bytes(b"")
    with pytest.raises(PeopleFileError):
        People.load(path)


def test_denied_person_is_refused_and_others_pass():
    people = People((person(),))
    with pytest.raises(PersonRefused, match="Ada"):
        check_identity(identity(near(vector(1), 0.9 * LIMIT)), people, "me.safetensors")
    assert check_identity(identity(near(vector(1), 1.1 * LIMIT)), people, "me.safetensors") == []


def test_a_mean_does_not_hide_a_denied_row():
    people = People((person(),))
    with pytest.raises(PersonRefused):
        check_identity(identity(vector(7), vector(8), vector(1)), people, "x")
    spread = [vector(1) + shift for shift in (vector(5), -vector(5))]
    with pytest.raises(PersonRefused):
        check_identity(identity(*spread), people, "x")


def test_deny_beats_allow():
    people = People((person("Ada", 1, "allow"), person("Twin", 1, "deny")))
    with pytest.raises(PersonRefused, match="Twin"):
        check_identity(identity(vector(1)), people, "x")


def test_others_denied_lets_only_allowed_people_through():
    people = People((person("Ada", 1, "allow"),), others="deny")
    assert check_identity(identity(vector(1)), people, "x")[0].person.name == "Ada"
    with pytest.raises(PersonRefused, match="nobody"):
        check_identity(identity(vector(2)), people, "x")


def test_expired_entries_do_not_count():
    today = datetime.now(UTC).date()
    gone = People((person(expires=str(today - timedelta(days=1))),))
    still = People((person(expires=str(today)),))
    assert check_identity(identity(vector(1)), gone, "x") == []
    with pytest.raises(PersonRefused):
        check_identity(identity(vector(1)), still, "x")


def test_identity_that_cannot_be_compared_is_refused():
    other = identity(vector(1, 512), encoder="antelopev2")
    with pytest.raises(PersonRefused, match="--encoder"):
        check_identity(other, People((person(),)), "x")
    assert check_identity(other, People((person(policy="allow"),)), "x") == []


def test_what_is_kept_of_an_object_proves_nothing():
    """Its file is refused while the registry guards; of its photo every face is looked at."""
    people = People((person(),))
    cup = identity(vector(1), encoder="cups", kind="object")
    assert check_identity(cup, People((person(policy="allow"),)), "x") == []
    with pytest.raises(PersonRefused, match="give the photos instead"):
        check_identity(cup, people, "x")
    with pytest.raises(PersonRefused, match="Ada"):
        check_identity(identity(vector(1), kind="object"), people, "x")


def test_whoever_is_in_the_photo_of_an_object_is_looked_at(tmp_path):
    object_of = {"subject": "object", "mask": "none"}
    strangers = People(others="deny")
    with pytest.raises(PersonRefused, match=r"astronaut.* matches nobody"):
        read_allowed("sample:astronaut", "mini-vit-object", strangers, **object_of)
    plain = Image.new("RGB", (200, 200), "white")
    assert read_allowed(plain, "mini-vit-object", strangers, **object_of).kind == "object"
    read = read_identity("sample:astronaut").features["dlib"].values
    known = People((Person("Ada", "deny", {"dlib": read[0]}, photos=1),))
    with pytest.raises(PersonRefused, match="Ada"):
        read_allowed("sample:astronaut", "mini-vit-object", known, **object_of)
    # What cannot be read was left out before, and is not opened again.
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    both = [plain, str(tmp_path / "broken.jpg")]
    assert read_allowed(both, "mini-vit-object", known, **object_of, on_error="skip").sources


class TwoViews:
    """Stands for dlib: the face in a bright photo and that in a dark one lie to both sides of Ada's."""

    name, dim, normalised, measure, threshold, sure_score = "dlib", 128, False, "distance", 0.0, 0.5
    weights_sha256, preprocessing, licence, provider = "0" * 64, "none", "none", "cpu"

    def detect(self, image: Image.Image) -> Faces:
        points = np.array([[20, 20], [40, 20], [30, 30], [22, 40], [38, 40]], np.float32)
        return Faces([Face((10.0, 10.0, 50.0, 50.0), points, 0.9)], (64,))

    def embed(self, image: Image.Image, face: Face) -> np.ndarray:
        step = vector(99) / np.linalg.norm(vector(99)) * 1.2 * LIMIT
        return vector(1) + (step if image.getpixel((0, 0))[0] > 99 else -step)

    def embed_many(self, images, faces):
        return np.stack([self.embed(image, face) for image, face in zip(images, faces, strict=True)])


@pytest.fixture
def two_views():
    before = dict(_ENTRIES)
    with pytest.warns(UserWarning, match="replaced"):
        register_encoder("dlib", TwoViews)
    yield [Image.new("RGB", (64, 64), shade) for shade in ("white", "black")]
    _ENTRIES.clear()
    _ENTRIES.update(before)
    release_encoders()


def test_photos_that_pass_alone_do_not_average_to_a_denied_person(two_views):
    people = People((person(),))
    for photo in two_views:
        assert read_allowed(photo, "dlib", people).kind == "face"
    with pytest.raises(PersonRefused, match="mean of the 2 photos shows 'Ada'"):
        read_allowed(two_views, "dlib", people)


def test_descriptor_of_another_length_is_named():
    with pytest.raises(BadInput, match="128"):
        People((person(),)).match(np.zeros((1, 64), np.float32), "dlib")


def test_cover_picks_few_encoders():
    both = Person("B", "deny", {"dlib": vector(1), "antelopev2": vector(1, 512)}, 5)
    other = Person("C", "deny", {"antelopev2": vector(2, 512)}, 5)
    assert cover([person(), both]) == ("dlib",)
    assert set(cover([person(), both, other])) == {"dlib", "antelopev2"}
    assert cover([both, other]) == ("antelopev2",)


def test_add_and_remove():
    people = People().add(person())
    with pytest.raises(BadInput, match="--force"):
        people.add(person(seed=3))
    replaced = people.add(person(seed=3), force=True)
    assert np.array_equal(replaced.entries[0].centroids["dlib"], vector(3))
    with pytest.raises(UnknownName, match="Ada"):
        people.remove("Adda")
    assert people.remove("Ada").entries == ()


@pytest.mark.parametrize(
    "broken",
    [
        {"name": " "},
        {"name": "a\x1b[2J"},
        {"policy": "maybe"},
        {"photos": 0},
        {"expires": "soon"},
        {"centroids": {}},
        {"centroids": {"dlib": np.full(128, np.nan, np.float32)}},
    ],
)
def test_bad_entries(broken):
    fields = {"name": "Ada", "policy": "deny", "centroids": {"dlib": vector(1)}, "photos": 5, **broken}
    with pytest.raises(BadInput):
        Person(**fields)


def test_where_the_registry_lies(tmp_path, monkeypatch):
    monkeypatch.delenv("IDPERSONA_PEOPLE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert people_path() == tmp_path / "idpersona" / "people.safetensors"
    assert load_people() == People()
    monkeypatch.setenv("IDPERSONA_PEOPLE", str(tmp_path / "gone.safetensors"))
    with pytest.raises(PeopleFileError, match=r"gone\.safetensors"):
        load_people()


def test_consent():
    require_consent(identity(vector(1), consent=True), "x")
    with pytest.raises(ConsentRequired, match="--consent"):
        require_consent(identity(vector(1)), "x")

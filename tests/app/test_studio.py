"""The studio behind page and interface: models in memory, who may be used, restoring, and what stays."""

from __future__ import annotations

import gc
import io
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona.app.asks import Create, Edit, Person
from idpersona.app.engine import Cancelled
from idpersona.app.faces import look_at
from idpersona.app.restore import restore
from idpersona.app.restore_edit import restore_edit
from idpersona.app.sessions import LOCK
from idpersona.app.settings import Settings
from idpersona.app.studio import Studio
from idpersona.errors import BadInput, ConsentRequired, LicenceRefused, PersonRefused, PhotoError, UnknownName
from idpersona.images import open_photo
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models
from idpersona.provenance import read_settings
from idpersona.registry import locate

ME = (Person(photos=("sample:astronaut",)),)
ASK = Create(people=ME, prompt="a photo of a smiling woman", steps=2, seed=3)
LORA = Path("assets/lora-eyeglasses/pytorch_lora_weights.safetensors").resolve()


def pixels(picture):
    return np.asarray(Image.open(picture.path))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny base of another kind, without weights of any method."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from idpersona.testing import tiny_components

    folder = tmp_path_factory.mktemp("base") / "tiny"
    StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False).save_pretrained(folder)
    return folder


def test_models_are_loaded_once_and_given_back():
    models, loaded = Models(), []

    class Heard(Listener):
        def loaded(self, names, device, seconds):
            loaded.append(names)

    pipe, [adapter], device = models.load("mini", ["instantid"], Heard(), device="cpu")
    again, [same], _ = models.load("mini", ["instantid"], Heard(), device="cpu")
    assert again is pipe
    assert same is adapter
    models.load("mini", ["wplus"], Heard(), device="cpu")
    assert loaded == ["mini, instantid", "mini, wplus"]
    assert (models.base, device) == ("mini", "cpu")
    gone = [weakref.ref(pipe.unet), weakref.ref(adapter)]
    del pipe, again, adapter, same
    models.clear()
    gc.collect()
    assert [one() for one in gone] == [None, None]


def test_another_base_takes_the_place_of_the_first(base):
    models = Models()
    pipe, _, _ = models.load("mini", [], Listener(), device="cpu")
    gone = weakref.ref(pipe.unet)
    del pipe
    models.load(str(base), [], Listener(), device="cpu")
    gc.collect()
    assert gone() is None
    assert models.base == str(base)


def test_nothing_of_a_job_stays_in_the_next():
    made = Studio(Settings(device="cpu", loras=(str(LORA),)))
    try:
        session = made.sessions.get("me")
        [plain] = made.create(session, ASK).wait(60)
        [with_lora] = made.create(session, replace(ASK, loras=(("pytorch_lora_weights", 1.0),))).wait(60)
        [other] = made.create(session, replace(ASK, method="wplus", scale=0.5)).wait(60)
        outside = tuple(
            Person(photos=(f"sample:{name}",), region=(500, 0, 64, 64)) for name in ("astronaut", "person-2")
        )
        with pytest.raises(BadInput):
            made.create(session, replace(ASK, people=outside)).wait(60)
        [again] = made.create(session, ASK).wait(60)
        assert np.array_equal(pixels(plain), pixels(again))
        assert not np.array_equal(pixels(plain), pixels(with_lora))
        assert not np.array_equal(pixels(plain), pixels(other))
        [lora] = read_settings(with_lora.path)["lora"]
        assert lora["path"] == "pytorch_lora_weights"
        assert str(LORA.parent) not in str(with_lora.settings)
        found = restore(made, session, with_lora)
        assert found.create.loras == (("pytorch_lora_weights", 1.0),)
        [repeated] = made.create(session, found.ask()).wait(60)
        assert np.array_equal(pixels(with_lora), pixels(repeated))
    finally:
        made.close()
    assert not made.sessions.root.exists()


def test_a_cancelled_job_ends_within_two_steps_and_leaves_the_model_as_it_was(studio):
    session = studio.sessions.get("me")
    [before] = studio.create(session, ASK).wait(60)
    ticket = studio.create(session, replace(ASK, steps=500))
    while ticket.step < 5 and not ticket.ended.is_set():
        time.sleep(0.002)
    at = ticket.step
    studio.engine.cancel("me")
    with pytest.raises(Cancelled):
        ticket.wait(30)
    assert ticket.step - at <= 2
    assert list(session.pictures) == [before.id]
    [after] = studio.create(session, ASK).wait(60)
    assert np.array_equal(pixels(before), pixels(after))


def test_a_session_that_is_removed_while_its_job_runs_leaves_nothing(studio):
    session = studio.sessions.get("me")
    ticket = studio.create(session, replace(ASK, steps=20))
    studio.sessions.remove("me")
    with pytest.raises(BadInput, match="session has ended"):
        ticket.wait(60)
    assert [path.name for path in studio.sessions.root.iterdir()] == [LOCK]


def test_an_edit_uses_its_inversion_again_and_gives_the_same(studio):
    session = studio.sessions.get("me")
    ask = Edit(
        photo="sample:astronaut",
        prompt="a photo of a smiling woman with black hair",
        words=("hair",),
        steps=4,
    )
    first = studio.edit(session, ask)
    one = first.wait(60)
    second = studio.edit(session, ask)
    two = second.wait(60)
    assert second.steps < first.steps
    assert len(session.inversions) == 1
    assert np.array_equal(pixels(one), pixels(two))
    assert one.before is not None
    studio.edit(session, replace(ask, source="a photo of a woman")).wait(60)
    assert len(session.inversions) == 2


def test_attributes_move_the_photo_and_nothing_moves_it_at_zero(studio):
    session = studio.sessions.get("me")
    ask = Edit(photo="sample:astronaut", prompt="", adapter="wplus", scale=1.0, steps=4)
    still = studio.edit(session, ask).wait(60)
    moved = studio.edit(session, replace(ask, attributes={"smile": -3.0, "age": 0.0})).wait(60)
    assert moved.settings["adapters_of_edit"][0]["options"] == {"edit": "smile=-3"}
    photo = np.asarray(Image.open(moved.before), dtype=float)
    assert np.abs(pixels(still) - photo).mean() < np.abs(pixels(moved) - photo).mean()
    with pytest.raises(BadInput, match="prompt"):
        studio.edit(session, replace(ask, adapter=None))


def test_consent_and_licences_are_asked_for_where_the_studio_says_so():
    strict = Studio(Settings(device="cpu", require_consent=True))
    try:
        session = strict.sessions.get("me")
        with pytest.raises(ConsentRequired):
            strict.create(session, ASK).wait(60)
        [picture] = strict.create(session, replace(ASK, consent=True)).wait(60)
        assert picture.settings["identity"]["consent"] is True
        with pytest.raises(ConsentRequired):
            strict.edit(session, Edit(photo="sample:astronaut", prompt="a photo of a man", steps=2)).wait(60)
    finally:
        strict.close()
    commercial = Studio(Settings(device="cpu", commercial=True))
    try:
        session = commercial.sessions.get("me")
        for ticket in (
            commercial.create(session, ASK),
            commercial.read(session, ("sample:astronaut",), "me"),
        ):
            with pytest.raises(LicenceRefused):
                ticket.wait(60)
        with pytest.raises(LicenceRefused):
            commercial.alike(session, ("sample:astronaut", "sample:person-1"))
        with pytest.raises(LicenceRefused):
            look_at(commercial, session, ["sample:astronaut"])
    finally:
        commercial.close()


@pytest.fixture
def denied(tmp_path, monkeypatch):
    """The sample is on the deny list."""
    from idpersona.cli.main import main

    monkeypatch.setenv("IDPERSONA_PEOPLE", str(tmp_path / "people.safetensors"))
    monkeypatch.delenv("IDPERSONA_PEOPLE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert main(["people", "add", "Ada", "sample:astronaut", "--policy", "deny"]) == 0


def test_people_who_are_denied_are_refused_everywhere(denied, studio, photo):
    session = studio.sessions.get("me")
    with pytest.raises(PersonRefused):
        studio.add_photo(session, photo.read_bytes(), "a.jpg")
    assert list(session.photos) == []
    for ticket in (
        studio.create(session, ASK),
        studio.read(session, ("sample:astronaut",), "me"),
        studio.edit(session, Edit(photo="sample:astronaut", prompt="a photo of a man", steps=2)),
    ):
        with pytest.raises(PersonRefused):
            ticket.wait(60)
    from idpersona import read_identity

    me = read_identity("sample:astronaut")
    path = session.folder / "me.safetensors"
    me.save(path)
    with pytest.raises(PersonRefused):
        studio.add_identity(session, path.read_bytes(), "me.safetensors")


def test_what_was_asked_comes_back_from_the_picture(studio, photo):
    session = studio.sessions.get("me")
    stored = studio.add_photo(session, photo.read_bytes(), "me.jpg")
    asks = {
        "plain": Create(
            people=(Person(photos=(stored.id,)),),
            prompt="a photo of a man",
            negative="hat",
            base="mini",
            method="infinite-id",
            scale=0.7,
            steps=2,
            guidance=3.0,
            size=(128, 96),
            seed=9,
            face=0,
            consent=True,
        ),
        "varied": replace(
            ASK, vary=((5, 0.3),), scale=1.0, base="mini", method="instantid", guidance=2.0, size=(128, 128)
        ),
        "posed": replace(
            ASK, pose=stored.id, scale=1.0, base="mini", method="instantid", guidance=2.0, size=(128, 128)
        ),
    }
    for ask in asks.values():
        [picture] = studio.create(session, ask).wait(60)
        data = picture.path.read_bytes()
        found = restore(studio, session, data, "made.png")
        assert found.create == ask
        assert found.notes == ()
        [again] = studio.create(session, found.ask()).wait(60)
        assert np.array_equal(pixels(picture), pixels(again))
    elsewhere = restore(studio, studio.sessions.get("other"), data, "made.png")
    assert elsewhere.create == replace(asks["posed"], pose=None)
    assert len(elsewhere.notes) == 1


def test_what_has_changed_since_a_picture_was_made_is_said(studio):
    session = studio.sessions.get("me")
    [picture] = studio.create(session, ASK).wait(60)
    same = studio.create(session, restore(studio, session, picture).ask())
    same.wait(60)
    assert not any("not as when" in note for note in same.notes)
    older = replace(picture, settings={**picture.settings, "versions": {"torch": "1.0"}})
    ticket = studio.create(session, restore(studio, session, older).ask())
    ticket.wait(60)
    assert any("Not as when the picture was made: torch" in note for note in ticket.notes)


def test_a_picture_of_a_photo_that_is_not_here_gives_the_rest(studio, photo):
    session = studio.sessions.get("me")
    stored = studio.add_photo(session, photo.read_bytes(), "me.jpg")
    [picture] = studio.create(session, replace(ASK, people=(Person(photos=(stored.id,)),))).wait(60)
    found = restore(studio, studio.sessions.get("other"), picture.path.read_bytes(), "made.png")
    assert found.create.people == ()
    assert found.create.prompt == ASK.prompt
    assert found.notes == ("Made.png was made from 'me.jpg', which is not here: add that photo or identity",)


def test_pictures_that_cannot_be_restored_say_why(studio, photo):
    session = studio.sessions.get("me")
    for data, error, says in (
        (b"", PhotoError, "not a readable PNG"),
        (photo.read_bytes(), PhotoError, "not a readable PNG"),
    ):
        with pytest.raises(error, match=says):
            restore(studio, session, data, "a.png")
    edited = studio.edit(session, Edit(photo="sample:astronaut", prompt="a photo of a man", steps=2)).wait(60)
    with pytest.raises(BadInput, match="is an edit: drop it under Edit"):
        restore(studio, session, edited.path.read_bytes(), "a.png")
    [picture] = studio.create(session, ASK).wait(60)
    elsewhere = replace(picture, settings={**picture.settings, "base": "/etc"})
    with pytest.raises(UnknownName):
        restore(studio, session, elsewhere)
    assert {path.suffix for path in session.folder.iterdir()} <= {".png", ".safetensors"}


def test_identities_are_merged_and_compared(studio):
    session = studio.sessions.get("me")
    one = studio.read(session, ("sample:person-1",), "one", consent=True).wait(60)
    two = studio.read(session, ("sample:astronaut",), "two").wait(60)
    merged = studio.merge(session, (one.id, two.id), "both")
    assert not merged.identity.consent
    assert len(merged.identity.sources) == 2
    alike = studio.alike(session, (f"identity:{one.id}", "sample:person-1")).wait(60)
    assert alike["same_person"]
    assert not studio.alike(session, (f"identity:{one.id}", f"identity:{two.id}")).wait(60)["same_person"]
    with pytest.raises(BadInput, match="choose two"):
        studio.alike(session, ("sample:person-1",))
    with pytest.raises(BadInput, match="two identities or more"):
        studio.merge(session, (one.id,), "x")
    [picture] = studio.create(session, replace(ASK, people=(Person(identity=one.id),))).wait(60)
    assert picture.settings["identity"]["sources"][0]["path"] == "one"


def test_only_samples_and_own_photos_are_opened(studio, tmp_path):
    open_photo("sample:astronaut").save(tmp_path / "a.png")
    session = studio.sessions.get("me")
    for wrong in (str(tmp_path / "a.png"), "../a.png", "sample:../../a", "/etc/passwd", ""):
        with pytest.raises(UnknownName):
            studio.create(session, replace(ASK, people=(Person(photos=(wrong,)),)))
        with pytest.raises(UnknownName):
            studio.edit(session, Edit(photo=wrong, prompt="x"))
        with pytest.raises(UnknownName):
            studio.read(session, (wrong,), "x")
        with pytest.raises(UnknownName):
            studio.create(session, replace(ASK, pose=wrong))


def test_the_first_model_is_loaded_before_it_is_asked_for():
    assert locate("mini").is_dir()
    made = Studio(Settings(device="cpu"))
    try:
        made.warm_up().wait(60)
        assert made.engine.models.base == "mini"
    finally:
        made.close()
    assert made.engine.models.base is None


def test_a_picture_of_any_shape_has_a_preview(studio):
    session = studio.sessions.get("me")
    ticket = studio.create(session, replace(ASK, size=(512, 64), steps=12))
    ticket.wait(60)
    assert ticket.preview is not None
    from io import BytesIO

    with Image.open(BytesIO(ticket.preview)) as seen:
        assert seen.size == (256, 64)


def test_what_a_job_says_has_no_path_and_no_option(photo):
    folder = LORA.parent
    made = Studio(Settings(device="cpu", loras=(str(LORA),)))
    try:
        session = made.sessions.get("me")
        small = Image.open(photo).resize((96, 96)).resize((512, 512))
        path = session.folder / "x.jpg"
        small.save(path)
        stored = made.add_photo(session, path.read_bytes(), "small.jpg")
        long = replace(ASK, people=(Person(photos=(stored.id,)),), prompt="a photo " * 100)
        seen = []
        ticket = made.create(session, long)
        while not ticket.ended.is_set():
            seen.append(ticket.where)
        assert ticket.wait(0)
        told = "\n".join([*ticket.notes, *seen])
        assert "“Prompt” has 200 tokens" in told
        assert "--" not in told
        for place in (str(made.sessions.root), str(folder), "/tmp", "/work"):
            assert place not in told
        with pytest.raises(BadInput) as refused:
            made.create(session, replace(ASK, size=(4096, 4096)))
        assert "up to 2048 pixels" in str(refused.value)
    finally:
        made.close()


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("no folder /home/me/models/sd: a base is mini", "No folder a file of the studio: a base is mini"),
        ("cannot read ~/.cache/idpersona/x.safetensors", "Cannot read a file of the studio"),
        ("C:\\Users\\me\\x.png is damaged", "A file of the studio is damaged"),
        (
            "see https://huggingface.co/a/b/c, or 1/2 and/or 3",
            "See https://huggingface.co/a/b/c, or 1/2 and/or 3",
        ),
        ("it needs x (idpersona identify PHOTO --for wplus --base mini)", "It needs x: read the photo again"),
    ],
)
def test_messages_hold_no_place_of_this_machine(told, says):
    from idpersona.app.speech import speak

    assert says in speak(told)


def test_consent_reaches_everybody_of_several(studio, photo):
    session = studio.sessions.get("me")
    people = (
        Person(photos=("sample:person-1",), region=(0, 0, 64, 128)),
        Person(photos=("sample:person-2",), region=(64, 0, 64, 128)),
    )
    ask = replace(ASK, people=people, consent=True)
    [picture] = studio.create(session, ask).wait(60)
    assert picture.settings["identity"]["consent"] is True
    assert restore(studio, session, picture).create.consent is True
    strict = Studio(Settings(device="cpu", require_consent=True))
    try:
        mine = strict.sessions.get("me")
        assert strict.create(mine, ask).wait(60)
        with pytest.raises(ConsentRequired):
            strict.create(mine, replace(ask, consent=False)).wait(60)
    finally:
        strict.close()


def test_what_does_not_go_together_is_refused_and_not_left_out(studio):
    session = studio.sessions.get("me")
    one = studio.read(session, ("sample:person-1",), "one").wait(60)
    ask = replace(ASK, people=(Person(identity=one.id),))
    for wrong in ({"face": 7}, {"consent": True}):
        with pytest.raises(BadInput):
            studio.create(session, replace(ask, **wrong))


def test_a_picture_is_not_lost_because_nobody_can_measure_it(studio, monkeypatch):
    from idpersona import read_identity
    from idpersona.app import likeness

    session = studio.sessions.get("me")
    me = read_identity("sample:astronaut")
    feature = me.features["dlib"]
    features = {name: replace(feature, encoder=name) for name in ("buffalo_l", "nobody", "dlib")}
    other = replace(me, features=features)
    stored = session.add_identity(other, "me")
    ask = replace(ASK, people=(Person(identity=stored.id),))
    [picture] = studio.create(session, ask).wait(60)
    assert picture.judge == "dlib"
    monkeypatch.setattr(likeness, "_usable", lambda name, **_: False)
    [unmeasured] = studio.create(session, ask).wait(60)
    assert (unmeasured.judge, unmeasured.similarity) == ("", None)


def test_methods_are_measured_by_the_same_encoder(studio):
    session = studio.sessions.get("me")
    asks = [replace(ASK, method=method, scale=1.0) for method in ("instantid", "infinite-id", "wplus")]
    ticket = studio.compare(session, asks)
    found = ticket.wait(120)
    assert [one.judge for one in found] == ["dlib"] * 3
    assert (ticket.step, ticket.steps) == (6, 6)


def test_a_comparison_is_there_whole_or_not_at_all(studio):
    session = studio.sessions.get("me")
    asks = [
        replace(ASK, seed=1),
        replace(ASK, seed=2, size=(64, 64)),
        replace(ASK, seed=3, pose="sample:astronaut", method="wplus"),
    ]
    with pytest.raises(BadInput):
        studio.compare(session, asks).wait(120)
    assert list(session.pictures) == []
    assert [path for path in session.folder.iterdir() if path.suffix == ".png"] == []


def test_a_variation_of_a_variation_starts_from_it(studio):
    session = studio.sessions.get("me")
    [first] = studio.create(session, ASK).wait(60)
    [varied] = studio.create(session, restore(studio, session, first).ask(vary=((5, 0.6),))).wait(60)
    found = restore(studio, session, varied)
    assert found.create.vary == ((5, 0.6),)
    [further] = studio.create(session, found.ask(vary=(*found.create.vary, (9, 0.1)))).wait(60)
    distance = [np.abs(pixels(further).astype(float) - pixels(one)).mean() for one in (varied, first)]
    assert 0 < distance[0] < distance[1]


def test_the_preview_of_an_edit_shows_the_edit(studio, monkeypatch):
    from idpersona.app import preview

    seen = []
    monkeypatch.setattr(
        preview.Preview, "look", lambda self, pipe, latents: seen.append(preview.decode(pipe, latents))
    )
    session = studio.sessions.get("me")
    ask = Edit(
        photo="sample:astronaut",
        source="a photo of a woman",
        prompt="a photo of an old woman with eyeglasses and gray hair",
        strength=1.0,
        steps=6,
    )
    made = studio.edit(session, ask).wait(60)
    last = Image.open(io.BytesIO(seen[-1])).convert("RGB")

    def away(path):
        return np.abs(np.asarray(Image.open(path).resize(last.size), float) - np.asarray(last, float)).mean()

    assert away(made.path) < away(made.before)


def test_edits_that_are_used_again_say_the_same(studio):
    session = studio.sessions.get("me")
    ask = Edit(photo="sample:astronaut", prompt="a photo of a man", steps=3)
    one, two = (studio.edit(session, ask).wait(60).settings for _ in range(2))
    assert one == two


def test_what_was_asked_of_an_edit_comes_back(studio, photo):
    session = studio.sessions.get("me")
    stored = studio.add_photo(session, photo.read_bytes(), "me.jpg")
    ask = Edit(
        photo=stored.id,
        prompt="a photo of a woman with eyeglasses",
        source="a photo of a woman",
        method="direct",
        strength=0.7,
        words=("eyeglasses", "woman"),
        keep_background=True,
        base="mini",
        adapter="wplus",
        scale=0.6,
        attributes={"smile": -1.5},
        steps=3,
        guidance=2.5,
        face=0,
        consent=True,
    )
    made = studio.edit(session, ask).wait(60)
    found = restore_edit(studio, session, made.path.read_bytes(), "a.png")
    assert found.notes == ()
    assert replace(found.edit, words=tuple(sorted(found.edit.words))) == ask
    again = studio.edit(session, found.edit).wait(60)
    assert np.array_equal(pixels(made), pixels(again))
    elsewhere = restore_edit(studio, studio.sessions.get("other"), made.path.read_bytes(), "a.png")
    assert elsewhere.edit.photo == ""
    assert "'me.jpg', which is not here" in elsewhere.notes[0]
    odd = replace(made, settings={**made.settings, "negative": "hat", "detail": False})
    assert [text.split(",")[0] for text in restore_edit(studio, session, odd).notes] == [
        "There is no field for the negative prompt",
        "There is no field for leaving out details of the photo",
    ]
    [picture] = studio.create(session, ASK).wait(60)
    with pytest.raises(BadInput, match="drop it under Create"):
        restore_edit(studio, session, picture)


@pytest.mark.parametrize(
    "change",
    [
        {"control": {"strength": "x"}},
        {"control": []},
        {"adapters_of_edit": [{}]},
        {"adapters_of_edit": "wplus"},
        {"method": "nothing"},
        {"face": "0"},
        {"photo_consent": "yes"},
        {"steps": None},
        {"edited": {}},
        {"edited": None},
        {"base": "/etc"},
        {"base": 3},
        {"identity_of_edit": ["x"]},
    ],
)
def test_damaged_settings_of_an_edit_are_refused(studio, change):
    from idpersona.app.sessions import StoredPicture
    from idpersona.errors import IdPersonaError

    session = studio.sessions.get("me")
    good = {
        "edited": {"path": "sample:astronaut", "sha256": "x"},
        "control": None,
        "adapters_of_edit": [],
        "method": "direct",
        "prompt": "a",
        "source": "a",
        "base": "mini",
        "steps": 3,
        "guidance": 2.0,
        "face": None,
        "photo_consent": False,
        "keep_background": False,
        "identity_of_edit": None,
        "method_options": {},
        "negative": None,
        "detail": True,
    }
    picture = StoredPicture("x", session.folder / "x.png", "edit", good, (1, 1))
    assert restore_edit(studio, session, picture).edit.photo == "sample:astronaut"
    with pytest.raises(IdPersonaError):
        restore_edit(studio, session, replace(picture, settings={**good, **change}))

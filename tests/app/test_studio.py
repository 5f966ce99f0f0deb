"""The studio behind page and interface: models in memory, who may be used, restoring, and what stays."""

from __future__ import annotations

import gc
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

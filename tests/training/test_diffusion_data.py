"""What a sample of the text-to-image training sees: shares, references, and the same on every process."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from idpersona.errors import BadInput
from idpersona.training.config import parse
from idpersona.training.data.faces import FaceData
from idpersona.training.keyed import StepKey
from idpersona.training.objectives.diffusion_config import DiffusionConfig
from idpersona.training.objectives.diffusion_data import DiffusionBatch, DiffusionData


def data(**changes) -> DiffusionData:
    """Samples whose pictures and descriptors tell their photos: row r has colour 4r and a one at r."""
    config = parse(
        DiffusionConfig, {"kind": "diffusion", "vae": "unused", "vocabulary": 600, **changes}, "test"
    )
    made = DiffusionData(config)
    faces = made.faces
    photos = []
    for source, array in enumerate(faces.photos):
        told = np.zeros_like(array)
        for row in np.flatnonzero(faces.sources == source):
            told[faces.places[row]] = 4 * row
        photos.append(told)
    made.faces = replace(faces, photos=tuple(photos), descriptors=np.eye(len(faces), 128, dtype=np.float32))
    return made


def rows_of(batch: DiffusionBatch) -> np.ndarray:
    colours = (batch.pictures.amax(dim=(1, 2, 3)) + 1) * 127.5
    return (colours / 4).round().long().numpy()


def test_a_reference_is_another_photo_of_the_person_and_never_the_drawn_one(cache):
    made = data()
    counts = []
    for step in range(40):
        batch = made.batch(StepKey(0, step, range(16), 16))
        for row, descriptor in zip(rows_of(batch)[: batch.people], batch.descriptors.numpy(), strict=True):
            references = np.flatnonzero(descriptor)
            assert row not in references
            assert set(made.faces.identities[references]) <= {made.faces.identities[row]}
            if len(references):
                counts.append(len(references))
                assert descriptor.sum() == pytest.approx(1)
    assert len(counts) > 200 and 0.6 < np.mean(np.array(counts) == 1) < 0.95 and max(counts) == 3


@pytest.mark.parametrize("identity", [0.0, 0.25, 1.0])
def test_the_share_with_a_person_is_exact(cache, identity):
    batch = data(identity=identity).batch(StepKey(0, 3, range(16), 16))
    assert batch.people == len(batch.descriptors) == len(batch.drawings) == 16 * identity
    assert sorted(batch.key.indices) == list(range(16))
    assert batch.pictures.shape == (16, 3, 128, 128) and batch.drawings.shape[1:] == (3, 128, 128)


def test_what_is_left_out_is_left_out_as_often_as_configured(cache):
    made = data(text_drop=0.2, caption_drop=0.25, identity_drop=0.15, both_drop=0.1)
    empty = made.tokenizer("", padding="max_length", return_tensors="pt").input_ids[0]
    person, text = [], []
    for step in range(100):
        batch = made.batch(StepKey(0, step, range(16), 16))
        person.append(np.pad(batch.descriptors.any(dim=1).numpy(), (0, 16 - batch.people)))
        text.append((batch.token_ids != empty).any(dim=1).numpy())
    with_person, with_text = np.stack(person)[:, :8].ravel(), np.stack(text)[:, :8].ravel()
    shares = {
        "nobody, caption": (np.mean(~with_person & with_text), 0.15),
        "nobody, no caption": (np.mean(~with_person & ~with_text), 0.1),
        "somebody, no caption": (np.mean(with_person & ~with_text), 0.25),
        "no person asked for, no caption": (np.mean(~np.stack(text)[:, 8:]), 0.2),
    }
    for name, (seen, wanted) in shares.items():
        assert abs(seen - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 800), name


def test_timesteps_spread_over_the_whole_range_in_every_step(cache):
    made = data()
    for step in range(5):
        timesteps = made.batch(StepKey(0, step, range(16), 16)).timesteps
        assert sorted((timesteps * 16 // 1000).tolist()) == list(range(16))


def test_two_halves_are_the_whole(cache):
    made = data()
    whole = made.batch(StepKey(4, 9, range(16), 16))
    halves = [made.batch(StepKey(4, 9, range(start, start + 8), 16)) for start in (0, 8)]
    place = {index: n for n, index in enumerate(whole.key.indices)}
    for half in halves:
        where = [place[index] for index in half.key.indices]
        for name in ("pictures", "timesteps", "token_ids"):
            assert torch.equal(getattr(half, name), getattr(whole, name)[where]), name
        for name in ("descriptors", "drawings"):
            assert torch.equal(getattr(half, name), getattr(whole, name)[where[: half.people]]), name
        assert torch.equal(half.key.normal((3,), 1), whole.key.normal((3,), 1)[where])


def test_enlarged_photos_say_mostly_that_they_are_of_low_quality(cache):
    made = data()
    enlarged = [r for r in range(len(made.faces)) if made.faces.sources[r] == 2]
    sharp = [r for r in range(len(made.faces)) if not made.attributes[r].get("Blurry") and r not in enlarged]
    rng = np.random.default_rng(0)

    def low(rows):
        said = [made.caption(rows[i % len(rows)], rng) for i in range(200)]
        return np.mean(["blurry" in text or "low " in text for text in said])

    assert low(sharp) == 0 and low(enlarged) > 0.55


def test_the_tokenizer_knows_the_words_of_captions(cache):
    made = data(vocabulary=1024)
    captions = [made.caption(row, np.random.default_rng(row)) for row in range(len(made.faces))]
    encoded = made.tokenizer(captions).input_ids
    assert np.mean([len(ids) <= 64 for ids in encoded]) > 0.9, "what the text encoder reads"
    back = made.tokenizer.batch_decode(encoded, skip_special_tokens=True)
    assert [b.replace(" ", "") for b in back] == [c.replace(" ", "") for c in captions]
    assert len(made.tokenizer("a photo of a person").input_ids) == 7, "a frequent word is one token"


def test_nobody_with_two_photos_is_told(cache, monkeypatch):
    opened = FaceData.open

    def single(part):
        faces = opened(part)
        return replace(faces, identities=np.array([f"p{i}" for i in range(len(faces))]))

    monkeypatch.setattr(FaceData, "open", single)
    with pytest.raises(BadInput, match="at least two photos"):
        data()


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"identity": 0.3}, "multiple of 0.125"), ({"base": False, "identity": 0}, "nothing to train")],
)
def test_a_configuration_that_cannot_be_is_refused(changes, words):
    with pytest.raises(BadInput, match=words):
        parse(DiffusionConfig, {"kind": "diffusion", "vae": "x", **changes}, "recipe")

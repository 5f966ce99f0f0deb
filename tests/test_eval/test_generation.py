"""Pictures come from their own seeds, survive an interrupted run, and scale 0 is the base."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from idpersona.errors import BadInput
from idpersona.eval.generation import Shot, Studio, without_identity
from idpersona.identity import Feature, Identity

POSE = np.array([[22, 26], [42, 26], [32, 36], [25, 46], [40, 46]], dtype=np.float32)


def person(seed: int) -> Identity:
    values = np.random.default_rng(seed).normal(0, 0.1, size=(1, 128)).astype(np.float32)
    return Identity(
        kind="face", features={"dlib": Feature("dlib", values)}, keypoints=POSE, image_size=(64, 64)
    )


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures]).astype(np.int16)


def test_a_picture_does_not_depend_on_its_batch(studio: Studio, pipe: Any, adapter: Any) -> None:
    shots = [Shot("a photo of a person", i, person(i), POSE + i) for i in range(4)]
    together = pixels(studio.draw(shots))
    alone = Studio(pipe, adapter, steps=2, guidance=2.0, size=64, batch=1, quiet=True)
    one_by_one = pixels(alone.draw(list(reversed(shots))))[::-1]
    assert np.abs(together - one_by_one).max() <= 1
    assert np.abs(together[0] - together[1]).max() > 8


def test_scale_zero_is_the_base_and_scale_one_is_not(studio: Studio) -> None:
    shot = Shot("a photo of a person", 5, person(0), POSE, 0.0)
    base, zero, one = pixels(studio.draw([without_identity(shot), shot, replace(shot, scale=1.0)]))
    assert np.array_equal(base, zero)
    assert np.abs(base - one).max() > 8


def test_an_interrupted_run_goes_on_where_it_stopped(studio: Studio, pipe: Any, adapter: Any) -> None:
    shots = [Shot("a photo of a person", i, person(0), POSE, 1.0) for i in range(3)]
    first = pixels(studio.draw(shots[:2]))
    again = Studio(pipe, adapter, steps=2, guidance=2.0, size=64, cache=studio.kept.folder, quiet=True)
    resumed = pixels(again.draw(shots))
    assert again.drawn == 1
    assert np.array_equal(resumed[:2], first)
    assert not list(Path(studio.kept.folder or "").rglob("*.part"))


@pytest.mark.parametrize("change", ["prompt", "seed", "scale", "identity", "pose", "steps", "guidance"])
def test_whatever_changes_a_picture_changes_its_place_in_the_cache(
    studio: Studio, pipe: Any, adapter: Any, change: str
) -> None:
    shot = Shot("a photo of a person", 1, person(0), POSE, 1.0)
    other: dict[str, Any] = {
        "prompt": "a photo of a man",
        "seed": 2,
        "scale": 0.5,
        "identity": person(1),
        "pose": POSE + 1,
    }
    settings: dict[str, Any] = {"steps": 2, "guidance": 2.0} | {
        "steps": {"steps": 3},
        "guidance": {"guidance": 3.0},
    }.get(change, {})
    twin = Studio(pipe, adapter, size=64, cache=studio.kept.folder, quiet=True, **settings)
    changed = replace(shot, **{change: other[change]}) if change in other else shot
    assert twin._key(shot) == studio._key(shot) or change in settings
    assert twin._key(changed) != studio._key(shot)


def test_other_weights_are_another_picture(studio: Studio, pipe: Any, adapter: Any) -> None:
    import torch

    shot = Shot("a photo of a person", 1, person(0), POSE, 1.0)
    weight = next(adapter.projector.parameters())
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(0.1)
    try:
        changed = Studio(pipe, adapter, steps=2, guidance=2.0, size=64, cache=studio.kept.folder, quiet=True)
    finally:
        with torch.no_grad():
            weight.copy_(before)
    assert changed._key(shot) != studio._key(shot)
    assert changed._key(without_identity(shot)) == studio._key(without_identity(shot))


def test_another_scheduler_or_configuration_is_another_picture(
    studio: Studio, pipe: Any, adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shot = Shot("a photo of a person", 1, person(0), POSE, 1.0)

    def path(method: Any = adapter) -> Any:
        return Studio(
            pipe, method, steps=2, guidance=2.0, size=64, cache=studio.kept.folder, quiet=True
        )._key(shot)

    before = studio._key(shot)
    assert path() == before
    with monkeypatch.context() as changed:
        scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_end=0.03)
        changed.setattr(pipe, "scheduler", scheduler)
        assert path() != before
    alone = studio._key(without_identity(shot))
    with monkeypatch.context() as changed:
        changed.setattr(adapter, "config", replace(adapter.config, kps_radius=9))
        assert path() != before
        assert studio._key(without_identity(shot)) == alone


def test_the_pipeline_is_left_as_it_was(studio: Studio, pipe: Any) -> None:
    before = getattr(pipe, "_progress_bar_config", None)
    processors = dict(pipe.unet.attn_processors)
    studio.draw([Shot("a photo of a person", 1, person(0), POSE, 1.0)])
    assert getattr(pipe, "_progress_bar_config", None) == before
    assert all(pipe.unet.attn_processors[name] is old for name, old in processors.items())


def test_an_identity_without_an_adapter_is_refused(pipe: Any) -> None:
    bare = Studio(pipe, steps=2, guidance=2.0, size=64, quiet=True)
    with pytest.raises(BadInput, match="needs an adapter"):
        bare.draw([Shot("a photo", 0, person(0), POSE)])
    with pytest.raises(BadInput, match="batch"):
        Studio(pipe, steps=2, guidance=2.0, size=64, batch=0)

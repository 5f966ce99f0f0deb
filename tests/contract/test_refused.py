"""What cannot be is refused with one clear line, and nothing in the pipeline changes."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from idpersona.errors import BadInput, CheckpointError, IdPersonaError
from idpersona.identity import Feature, Identity


@contextlib.contextmanager
def refused(row: Any, *told: str, kind: type[IdPersonaError] = IdPersonaError) -> Any:
    """What is tried inside must end in one line with ``told``, and leave pipeline and pictures alone."""
    processors = dict(row.pipe.unet.attn_processors)
    before = row.draw(num_inference_steps=1)
    with pytest.raises(kind) as caught:
        yield
    line = str(caught.value)
    assert "\n" not in line
    for part in told:
        assert part in line, line
    assert row.pipe.unet.attn_processors == processors
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in row.pipe.unet.modules())
    assert torch.equal(row.draw(num_inference_steps=1), before)


def test_an_identity_read_by_another_encoder(row: Any) -> None:
    person = row.person(1)
    values = np.ones((1, 7), np.float32)
    other = dataclasses.replace(person, features={"other-encoder": Feature("other-encoder", values)})
    scope = row.attach(other)
    with refused(row, *row.adapter.encoders, "other-encoder"), scope:
        pytest.fail("the scope was entered")


def test_features_of_another_size(row: Any) -> None:
    """As of other weights under the same name."""
    person = row.person(1)
    name = next(iter(row.features))
    feature = dataclasses.replace(person.features[name], values=np.ones((1, 7), np.float32), tokens=1)
    scope = row.attach(dataclasses.replace(person, features={**person.features, name: feature}))
    with refused(row, name, "7", kind=BadInput), scope:
        pytest.fail("the scope was entered")


def test_a_checkpoint_of_another_base(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first layer that does not fit is named, with both shapes."""
    attention = row.adapter.cross_attention
    geometry = dict(attention.config["geometry"])
    first = next(iter(geometry))
    channels, width = geometry[first]
    wrong = type(attention)(
        {name: (c + 8, w) if name == first else (c, w) for name, (c, w) in geometry.items()}
    )
    monkeypatch.setattr(row.adapter, "cross_attention", wrong)
    with (
        refused(row, first, str(channels), str(channels + 8), kind=CheckpointError),
        row.attach(row.person(1)),
    ):
        pytest.fail("the scope was entered")
    assert width


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ((0, 0, 0, 8), "empty"),
        ((0, 0, 4096, 8), "leaves the canvas"),
        (np.zeros((8, 8), np.float32), "empty"),
    ],
)
def test_a_region_outside_of_the_canvas_or_empty(row: Any, region: Any, told: str) -> None:
    def draw() -> None:
        with row.attach({row.person(1): region}):
            row.draw(num_inference_steps=1)

    with refused(row, told, kind=BadInput):
        draw()


def test_somebody_who_is_nobody(row: Any) -> None:
    person = row.person(1)
    assert isinstance(person, Identity)
    with refused(row, "str", kind=BadInput), row.attach(["me.jpg"]):
        pytest.fail("the scope was entered")

"""Contract 2: scale 0 and an all-zero mask are the base bit for bit; outside a mask nothing is added."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from idpersona.errors import BadInput
from idpersona.seams import cross, host
from idpersona.seams.mask import layer_grid


def test_scale_zero_touches_nothing(row: Any) -> None:
    before = row.draw()
    processors = row.pipe.unet.attn_processors
    with row.attach(row.person(1), scale=0):
        assert all(row.pipe.unet.attn_processors[name] is p for name, p in processors.items())
        assert not row.pipe.unet._forward_pre_hooks
        assert torch.equal(row.draw(), before)


def test_each_part_acts_alone(row: Any) -> None:
    before = row.draw()
    outputs = [before]
    for chosen in row.seams if len(row.seams) > 1 else ():
        with row.attach(row.person(1), scale=row.only(chosen)):
            outputs.append(row.draw())
    with row.attach(row.person(1), scale=1):
        outputs.append(row.draw())
    for i, one in enumerate(outputs):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in outputs[i + 1 :])


def test_scale_by_layer_pattern(row: Any) -> None:
    person = row.person(1)
    with row.attach(person, scale=row.only("up_blocks.*", 0.8)):
        pattern = row.draw()
    with row.attach(person, scale=row.only("identity", 0.8) | {"down_blocks": 0, "mid_block": 0}):
        inverse = row.draw()
        processors = row.pipe.unet.attn_processors
        hosts = [name for name, p in processors.items() if type(p).__module__.startswith("idpersona")]
    assert hosts and all(name.startswith("up_blocks") for name in hosts)
    assert torch.equal(pattern, inverse)
    with row.attach(person, scale=row.only("identity", 0.8)):
        assert not torch.allclose(row.draw(), pattern, atol=1e-3)


@pytest.mark.parametrize("scale", [math.nan, math.inf, -0.1, "much", {"nowhere.*": 1.0}, {"net": None}])
def test_a_senseless_scale_is_refused(row: Any, scale: Any) -> None:
    with pytest.raises(BadInput), row.attach(row.person(1), scale=scale):
        pytest.fail("the scope was entered")


def test_an_all_zero_mask_is_the_base(row: Any) -> None:
    before = row.draw()
    with row.attach(row.person(1), mask=np.zeros((row.size, row.size), dtype=np.float32)):
        assert torch.equal(row.draw(), before)


def test_a_full_mask_is_no_mask(row: Any) -> None:
    with row.attach(row.person(1)):
        free = row.draw()
    with row.attach(row.person(1), mask=np.ones((row.size, row.size), dtype=np.float32)):
        assert torch.equal(row.draw(), free)


def test_outside_the_mask_the_added_term_is_exactly_zero(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    left = np.zeros((row.size, row.size), dtype=np.uint8)
    left[:, : row.size // 2] = 255
    seen: dict[str, torch.Tensor] = {}
    watchers: dict[Any, Any] = {}

    def watched(name: str, layer: Any, term: Any) -> None:
        def add(attn: Any, query: Any, text: Any) -> Any:
            added = term(attn, query, text)
            grid = layer_grid(term.call.size, query.shape[1])
            assert grid is not None
            seen[name] = added.unflatten(1, grid)
            return added

        watchers[term] = add
        host.add_branch(name, layer, add)

    monkeypatch.setattr(cross, "add_branch", watched)
    monkeypatch.setattr(cross, "remove_branch", lambda layer, term: host.remove_branch(layer, watchers[term]))
    with row.attach(row.person(1), mask=left, scale=row.only("identity")):
        row.draw()
    assert set(seen) == set(row.adapter.cross_attention.layers)
    for added in seen.values():
        half = added.shape[2] // 2
        assert (added[:, :, half:] == 0).all()
        assert (added[:, :, :half] != 0).any()


def test_a_window_that_is_never_open_or_always_open(row: Any) -> None:
    """With 3 steps, 0.4..0.6 lies within the middle step and so holds no whole step."""
    before = row.draw()
    with row.attach(row.person(1), start=0.4, end=0.6):
        assert torch.equal(row.draw(), before)
    with row.attach(row.person(1)):
        free = row.draw()
    outputs = {}
    for start, end in ((0.0, 0.34), (0.3, 0.7), (0.6, 1.0)):
        with row.attach(row.person(1), start=start, end=end):
            outputs[start] = row.draw()
            assert torch.equal(row.draw(), outputs[start]), "a second call in one scope starts anew"
    found = [before, free, *outputs.values()]
    for i, one in enumerate(found):
        assert all(not torch.equal(one, other) for other in found[i + 1 :])


def test_the_window_opens_at_the_step_that_was_asked_for(row: Any) -> None:
    """Up to the first step inside the window the latents are the base's, bit for bit."""

    def trace() -> list[torch.Tensor]:
        latents: list[torch.Tensor] = []

        def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
            latents.append(values["latents"].clone())
            return values

        row.draw(num_inference_steps=4, callback_on_step_end=keep)
        return latents

    before = trace()
    with row.attach(row.person(1), start=0.5):
        late = trace()
    assert [torch.equal(a, b) for a, b in zip(before, late, strict=True)] == [True, True, False, False]


@pytest.mark.parametrize("window", [(0.5, 0.5), (0.7, 0.2), (-0.1, 1.0), (0.0, 1.1), (math.nan, 1.0)])
def test_a_senseless_window_is_refused(row: Any, window: tuple[float, float]) -> None:
    start, end = window
    with pytest.raises(BadInput), row.attach(row.person(1), start=start, end=end):
        pytest.fail("the scope was entered")

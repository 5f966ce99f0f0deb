"""Several people in one picture: disjoint regions, and one person alone is the single-person path exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.keypoints import draw_kps
from idpersona.seams import cross, host
from idpersona.seams.mask import layer_grid
from idpersona.seams.region import Regions, disjoint


@pytest.fixture
def people(row: Any) -> tuple[Any, Identity, Identity]:
    """The row, and two people of it."""
    return row, row.person(1), row.person(2)


def test_one_person_on_the_whole_canvas_is_the_single_person_path(people: Any) -> None:
    """Bit for bit; a word has no place on the canvas, so AnyMaker's part in the text is left out of both."""
    row, me, _ = people
    whole = np.ones((row.size, row.size), dtype=np.float32)
    scale = row.only("identity") | ({"net": 1.0} if "net" in row.seams else {})
    with row.attach(me, scale=scale):
        alone = row.draw()
    for region in ((0, 0, row.size, row.size), whole):
        with row.attach({me: region}, scale=scale):
            assert torch.equal(row.draw(), alone)


def test_each_person_acts_in_its_own_region_only(people: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    row, me, you = people
    half = row.size // 2
    seen: dict[tuple[str, int], torch.Tensor] = {}
    watchers: dict[Any, Any] = {}

    def watched(name: str, layer: Any, term: Any) -> None:
        number = sum(key[0] == name for key in order)
        order.append((name, number))

        def add(attn: Any, query: Any, text: Any) -> Any:
            added = term(attn, query, text)
            grid = layer_grid(term.call.size, query.shape[1])
            assert grid is not None
            seen[name, number] = added.unflatten(1, grid)
            return added

        watchers[term] = add
        host.add_branch(name, layer, add)

    order: list[tuple[str, int]] = []
    monkeypatch.setattr(cross, "add_branch", watched)
    monkeypatch.setattr(cross, "remove_branch", lambda layer, term: host.remove_branch(layer, watchers[term]))
    places = {me: (0, 0, half, row.size), you: (half, 0, half, row.size)}
    with row.attach(places, scale=row.only("identity")):
        row.draw()
    assert {key[1] for key in seen} == {0, 1}
    for (_, number), added in seen.items():
        middle = added.shape[2] // 2
        own, other = slice(None, middle), slice(middle, None)
        if number:
            own, other = other, own
        assert (added[:, :, other] == 0).all() and (added[:, :, own] != 0).any()


def test_two_people_differ_from_one_and_leave_no_trace(people: Any) -> None:
    row, me, you = people
    half = row.size // 2
    before = row.draw()
    left, right = (0, 0, half, row.size), (half, 0, half, row.size)
    drawn = []
    for places in ({me: left, you: right}, {you: left, me: right}, {me: left}):
        with row.attach(places):
            drawn.append(row.draw())
            assert torch.equal(row.draw(), drawn[-1])
    for number, one in enumerate(drawn):
        assert all(not torch.allclose(one, other, atol=1e-3) for other in drawn[number + 1 :])
    assert torch.equal(row.draw(), before)


def test_pictures_of_a_batch_each_hold_everybody(people: Any) -> None:
    row, me, you = people
    half = row.size // 2
    with row.attach({me: (0, 0, half, row.size), you: (half, 0, half, row.size)}):
        one = row.draw()
        two = row.draw(prompt=["a photo of a smiling man"] * 2)
    assert torch.allclose(two, torch.cat([one, one]), atol=1e-4)


def test_all_keypoints_are_on_one_canvas(row: Any) -> None:
    me, you = row.person(1), row.person(2)
    half = row.size // 2
    seen: list[torch.Tensor] = []

    def keep(_module: Any, _args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["controlnet_cond"].clone())

    net = row.adapter.identitynet
    handle = net.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with row.attach({me: (0, 0, half, row.size), you: (half, 0, half, row.size)}):
            row.draw(num_inference_steps=1, guidance_scale=1.0)
    finally:
        handle.remove()
    picture = seen[0]
    assert picture.shape[0] == 2 and torch.equal(picture[0], picture[1])
    lit = picture[0].amax(dim=0) > 0
    assert lit[:, :half].any() and lit[:, half:].any()
    # The published colours, not a mixture.
    dots = draw_kps((8, 8), np.full((5, 2), 4.0), radius=2, stick_width=1)
    assert picture.max() <= np.asarray(dots).max() / 255


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ((0, 0, 0, 8), "empty"),
        ((-4, 0, 8, 8), "leaves the canvas"),
        ((0, 0, 9999, 8), "leaves the canvas"),
        ((0, 0, 8), "x,y,width,height"),
        ((0.5, 0, 8, 8), "x,y,width,height"),
        (np.zeros((8, 8), np.float32), "empty"),
    ],
)
def test_regions_that_are_none(people: Any, region: Any, told: str) -> None:
    row, me, _ = people
    before, state = row.draw(), dict(row.pipe.unet.attn_processors)
    with pytest.raises(BadInput, match=told), row.attach({me: region}):
        row.draw()
    assert row.pipe.unet.attn_processors == state
    assert torch.equal(row.draw(), before)


def test_regions_and_a_mask_are_one_too_many(people: Any) -> None:
    row, me, _ = people
    scope = row.attach({me: (0, 0, 8, 8)}, mask=np.ones((8, 8), np.float32))
    with pytest.raises(BadInput, match="masks already"), scope:
        pytest.fail("the scope was entered")


@pytest.mark.parametrize("seed", range(4))
def test_overlaps_go_to_one(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    claims = (torch.rand(3, 1, 20, 30, generator=generator) * 255).round() / 255
    claims = claims * (torch.rand(3, 1, 20, 30, generator=generator) < 0.7)
    made = disjoint(claims)
    assert ((made > 0).sum(dim=0) <= 1).all()
    assert torch.equal((made > 0).any(dim=0), (claims > 0).any(dim=0))
    assert torch.equal(made.amax(dim=0), claims.amax(dim=0))
    assert torch.equal(disjoint(made), made)


def test_boxes_that_overlap_meet_in_the_middle() -> None:
    masks = Regions([(0, 0, 20, 10), (10, 0, 20, 10)]).masks((30, 10))
    assert masks[0, 0, :, :15].eq(1).all() and masks[1, 0, :, 15:].eq(1).all()
    assert masks[0, 0, :, 15:].eq(0).all() and masks[1, 0, :, :15].eq(0).all()


def test_a_thin_mask_is_not_lost_on_a_smaller_canvas() -> None:
    line = np.zeros((1000, 1000), np.float32)
    line[501] = 1
    regions = Regions([line])
    assert regions.box(0, (64, 64)) == (0, 32, 64, 1)
    assert regions.masks((64, 64)).sum() == 64

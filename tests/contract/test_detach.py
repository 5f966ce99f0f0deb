"""Contract 1: after the scope the pipeline is, bit for bit, what it was before."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

from idpersona.errors import SeamError


class Foreign:
    """Somebody else's processor: not known to us, but it goes through the layer's sub-modules."""

    def __init__(self) -> None:
        self.stock = AttnProcessor2_0()

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, attention_mask: Any = None
    ) -> Any:
        return self.stock(attn, hidden_states, encoder_hidden_states, attention_mask) * 1.01


def _state(pipe: Any) -> tuple[list[int], int, list[tuple[int, ...]]]:
    """Identities of processors, number of hooks on the model, hooks of every module."""
    unet = pipe.unet
    processors = [id(p) for p in unet.attn_processors.values()]
    hooks = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), id(m.__dict__.get("forward")))
        for m in unet.modules()
    ]
    return processors, len(unet._forward_pre_hooks), hooks


def test_outputs_are_bit_equal_after_detaching_twice(row: Any) -> None:
    before, state = row.draw(), _state(row.pipe)
    inside = []
    for _ in range(2):
        with row.attach(row.person(1), scale=0.8):
            inside.append(row.draw())
        assert torch.equal(row.draw(), before)
        assert _state(row.pipe) == state
    assert torch.equal(inside[0], inside[1])
    assert not torch.equal(inside[0], before)


def test_outputs_are_bit_equal_after_an_exception(row: Any) -> None:
    before, state = row.draw(), _state(row.pipe)

    def stop(*_args: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), row.attach(row.person(1)):
        row.draw(callback_on_step_end=stop)
    assert _state(row.pipe) == state
    assert torch.equal(row.draw(), before)


def test_a_failing_attach_leaves_nothing_behind(row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scope is undone also when it cannot be entered wholly."""
    before, state = row.draw(), _state(row.pipe)
    from idpersona.seams import cross

    real, count = cross.add_branch, 0

    def fails_late(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise SeamError("third layer")
        real(*args)

    monkeypatch.setattr(cross, "add_branch", fails_late)
    with pytest.raises(SeamError, match="third layer"), row.attach(row.person(1)):
        pytest.fail("the scope was entered")
    assert _state(row.pipe) == state
    assert torch.equal(row.draw(), before)


@pytest.mark.parametrize("processor", [Foreign, AttnProcessor])
def test_the_users_own_processors_come_back(row: Any, processor: type[Any]) -> None:
    stock = row.pipe.unet.attn_processors
    row.pipe.unet.set_attn_processor({name: processor() for name in stock})
    try:
        before, state = row.draw(), _state(row.pipe)
        with row.attach(row.person(1), scale=row.only("identity", 0.8)):
            inside = row.draw()
        assert _state(row.pipe) == state
        assert torch.equal(row.draw(), before)
        assert not torch.equal(inside, before)
    finally:
        row.pipe.unet.set_attn_processor(dict(stock))


@pytest.mark.parametrize("first_out", [0, 1])
def test_two_adapters_detach_in_either_order(row: Any, first_out: int) -> None:
    before, state = row.draw(), _state(row.pipe)
    scales = (0.5, row.only("identity", 0.5) if "mixed" in row.seams else 0.5)  # one second stream at a time

    def attach(number: int) -> Any:
        return row.attach(row.person(number + 1), scale=scales[number])

    scopes = [attach(0), attach(1)]
    with attach(1 - first_out):
        single = row.draw()
    for scope in scopes:
        scope.__enter__()
    both = row.draw()
    scopes[first_out].__exit__(None, None, None)
    remaining = row.draw()
    scopes[1 - first_out].__exit__(None, None, None)
    assert torch.equal(remaining, single)
    assert not torch.equal(both, single)
    assert _state(row.pipe) == state
    assert torch.equal(row.draw(), before)


def test_a_processor_set_meanwhile_is_never_overwritten(row: Any) -> None:
    stock = row.pipe.unet.attn_processors
    before = row.draw()
    name = f"{row.adapter.cross_attention.layers[0]}.processor"
    mine = Foreign()
    try:
        with (
            pytest.raises(SeamError, match=name.removesuffix(".processor").replace(".", r"\.")),
            row.attach(row.person(1)),
        ):
            row.pipe.unet.get_submodule(name.removesuffix(".processor")).processor = mine
        now = row.pipe.unet.attn_processors
        assert now[name] is mine
        assert all(now[other] is stock[other] for other in stock if other != name)
    finally:
        row.pipe.unet.set_attn_processor(dict(stock))
    assert torch.equal(row.draw(), before)


def test_attaching_over_a_replaced_processor_is_refused(row: Any) -> None:
    layer = row.adapter.cross_attention.layers[0]
    attn = row.pipe.unet.get_submodule(layer)
    state = _state(row.pipe)
    with row.attach(row.person(1)):
        host = attn.processor
        attn.processor = Foreign()
        with (
            pytest.raises(SeamError, match=layer.replace(".", r"\.")),
            row.attach(row.person(2)),
        ):
            pytest.fail("the scope was entered")
        attn.processor = host
    assert _state(row.pipe) == state

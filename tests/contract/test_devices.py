"""Contract 5: number types, compilation, attention slicing, offloading."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from idpersona.errors import SeamError
from idpersona.seams.call import is_quiet

ACCELERATOR = torch.cuda.is_available()


def _works(dtype: torch.dtype) -> bool:
    try:
        torch.nn.functional.conv2d(torch.ones(1, 1, 3, 3, dtype=dtype), torch.ones(1, 1, 3, 3, dtype=dtype))
    except RuntimeError:
        return False
    return True


def _predictions(row: Any) -> list[torch.Tensor]:
    """What the model predicts in one step, without and with the adapter (at a strength that shows)."""
    seen: list[torch.Tensor] = []

    def watch(_module: Any, _args: Any, output: Any) -> None:
        if is_quiet(row.pipe.unet):
            return
        seen.append(output[0] if isinstance(output, tuple) else output.sample)

    handle = row.pipe.unet.register_forward_hook(watch)
    try:
        row.draw(num_inference_steps=1)
        with row.attach(row.person(1), scale=row.strong):
            row.draw(num_inference_steps=1)
    finally:
        handle.remove()
    return seen


@pytest.mark.parametrize(
    ("dtype", "both"), [(torch.bfloat16, True), (torch.bfloat16, False), (torch.float16, True)]
)
def test_half_precision(row: Any, new_row: Any, dtype: torch.dtype, both: bool) -> None:
    """Adapter in the pipeline's type, or still in float32: near the float32 result, its type unchanged."""
    if not _works(dtype):
        pytest.skip(f"{dtype} convolutions do not work on this device")
    exact = _predictions(row)
    half = new_row(row)
    half.pipe.to(dtype=dtype)
    if both:
        half.adapter.to(dtype=dtype)
    got = _predictions(half)
    assert all(p.dtype == dtype and p.isfinite().all() for p in got)
    kinds = {p.dtype for part in half.adapter.parts.values() for p in part.parameters()}
    assert kinds <= {dtype if both else torch.float32}
    base_error, error = ((g.float() - e).abs().mean() for g, e in zip(got, exact, strict=True))
    # The adapter roughly doubles the arithmetic, so it may about double the rounding of the base itself.
    assert error < 3 * base_error
    # What it adds stands out of its rounding, unless there is no more of that than without it.
    assert error < max(0.2 * (exact[1] - exact[0]).abs().mean(), 1.2 * base_error)


def test_compiled_without_a_graph_break(row: Any) -> None:
    base = row.draw()
    with row.attach(row.person(1), scale=0.8):
        eager = row.draw()
    unet = row.pipe.unet
    torch._dynamo.reset()
    row.pipe.unet = torch.compile(unet, backend="eager", fullgraph=True)
    try:
        with row.attach(row.person(1), scale=0.8):
            assert torch.equal(row.draw(), eager)
        assert torch.equal(row.draw(), base)
    finally:
        row.pipe.unet = unet
        torch._dynamo.reset()


def test_blocks_compiled_without_a_graph_break(row: Any, new_row: Any) -> None:
    """diffusers' regional compilation: the repeated blocks, hosts inside, in place.

    Blocks are compiled once per width and state: without adapter, with it, and (Infinite-ID) in the pass
    beside. Three widths make nine, one more than torch compiles by default before it gives up.
    """
    own = new_row(row)
    base = own.draw()
    with own.attach(own.person(1), scale=0.8):
        eager = own.draw()
    torch._dynamo.reset()
    own.pipe.unet.compile_repeated_blocks(backend="eager", fullgraph=True)
    with torch._dynamo.config.patch(recompile_limit=9):
        with own.attach(own.person(1), scale=0.8):
            assert torch.equal(own.draw(), eager)
        assert torch.equal(own.draw(), base)
    torch._dynamo.reset()


@pytest.mark.parametrize("when", ["before", "inside"])
def test_attention_slicing(row: Any, when: str) -> None:
    """Slicing set before is kept; set inside the scope it replaces processors, which is told by layer."""
    with row.attach(row.person(1)):
        whole = row.draw()
    stock = row.pipe.unet.attn_processors
    try:
        if when == "before":
            row.pipe.enable_attention_slicing(1)
            base = row.draw()
            with row.attach(row.person(1)):
                assert torch.allclose(row.draw(), whole, atol=1e-4)
            assert torch.equal(row.draw(), base)
            assert all(
                type(p).__name__ == "SlicedAttnProcessor" for p in row.pipe.unet.attn_processors.values()
            )
        else:
            with (
                pytest.raises(SeamError, match=r"attn2 was replaced by SlicedAttnProcessor"),
                row.attach(row.person(1)),
            ):
                row.pipe.enable_attention_slicing(1)
    finally:
        row.pipe.unet.set_attn_processor(dict(stock))


@pytest.mark.gpu
@pytest.mark.skipif(not ACCELERATOR, reason="offloading needs an accelerator")
@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloading(row: Any, new_row: Any, how: str) -> None:
    own = new_row(row)
    own.pipe.to("cuda")
    with own.attach(own.person(1)):
        expected = own.draw().cpu()
    assert own.adapter.device.type == "cuda"
    own = new_row(row)
    getattr(own.pipe, how)()
    base = own.draw().cpu()
    with own.attach(own.person(1)):
        assert torch.allclose(own.draw().cpu(), expected, atol=1e-3)
    assert torch.equal(own.draw().cpu(), base)


def test_nothing_of_the_adapter_becomes_part_of_the_pipeline(row: Any) -> None:
    """What is put in is weightless: no component, no parameter, no state."""
    names, state = set(row.pipe.components), set(row.pipe.unet.state_dict())
    with row.attach(row.person(1)):
        assert set(row.pipe.components) == names
        assert set(row.pipe.unet.state_dict()) == state

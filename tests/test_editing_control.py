"""What an edit takes over of its source, layer by layer and step by step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline

from idpersona.adapters import load_adapter
from idpersona.errors import BadInput
from idpersona.pipelines import load_base
from idpersona.pipelines.editing.blend import LocalBlend, blend_grid
from idpersona.pipelines.editing.control import AttentionControl, plan
from idpersona.pipelines.editing.edit import edit
from idpersona.pipelines.editing.spec import Control
from idpersona.pipelines.inversion.methods import invert
from idpersona.seams.text import word_rows
from idpersona.testing import tiny_components

SOURCE, TARGET = "a photo of a man", "a photo of a smiling man"
STEPS = 4


@pytest.fixture(scope="module")
def pipe() -> Any:
    made: Any = StableDiffusionPipeline(**tiny_components("sd15"))
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def record(pipe: Any) -> Any:
    return invert(pipe, "sample:person-1", SOURCE, method="ddim", steps=STEPS, size=(32, 32))


def draw(pipe: Any, record: Any, control: Control | None, target: str = TARGET) -> tuple[Any, Any]:
    edited = edit(pipe, record, target, control=control, output_type="latent")
    return edited.sources, edited.images


def test_everything_taken_over_is_the_source(pipe: Any, record: Any) -> None:
    sources, images = draw(pipe, record, Control(kind="replace", cross=1.0, self_attention=1.0), SOURCE)
    assert torch.allclose(sources, images, atol=1e-4 * float(sources.abs().max()))
    off, plain = draw(pipe, record, Control(cross=0.0, self_attention=0.0)), draw(pipe, record, None)
    assert torch.equal(off[0], plain[0]) and torch.equal(off[1], plain[1]), "nothing taken touches nothing"


def test_new_words_keep_their_own_attention(pipe: Any) -> None:
    control = AttentionControl(pipe, Control(cross=1.0, reweight={"smiling": 2.0}), [(SOURCE, TARGET)])
    both = torch.rand(2, 3, 16, 77)
    edited = control.edited(both, control.known.clone())
    new = word_rows(pipe.tokenizer, TARGET, "smiling")
    assert torch.equal(edited[0], both[0])
    assert torch.allclose(edited[1][..., new], 2 * both[1][..., new])
    for word in ("photo", "man"):
        theirs, ours = (word_rows(pipe.tokenizer, text, word) for text in (SOURCE, TARGET))
        assert torch.allclose(edited[1][..., ours], both[0][..., theirs])


def test_the_source_is_drawn_as_without_its_edit(pipe: Any, record: Any) -> None:
    control = Control(cross=0.8, self_attention=0.5, reweight={"smiling": 3.0}, blend=("man", "man"))
    sources, _ = draw(pipe, record, control)
    plain, _ = draw(pipe, record, None)
    assert torch.allclose(sources, plain, atol=1e-4 * float(plain.abs().max()))


def test_weights_of_words_count(pipe: Any, record: Any) -> None:
    _, once = draw(pipe, record, Control(reweight={"smiling": 1.0}))
    _, twice = draw(pipe, record, Control(reweight={"smiling": 2.0}))
    _, plain = draw(pipe, record, Control())
    assert torch.equal(once, plain) and not torch.allclose(twice, plain)


def test_blending_changes_only_where_the_words_are(pipe: Any, record: Any) -> None:
    control = AttentionControl(pipe, Control(blend=("man", "smiling"), blend_from=0.0), [(SOURCE, TARGET)])
    assert control.blend is not None
    words = control.blend.words.bool()
    assert words.shape == (2, 77) and not torch.equal(words[0], words[1]) and bool(words.any(dim=1).all())
    probabilities = torch.zeros(2, 1, 16 * 16, 77)
    probabilities[0, 0, : 8 * 16, words[0]] = 1.0  # the upper half draws the source's word
    control.blend.add(probabilities, (16, 16))
    latents = torch.stack([torch.zeros(4, 16, 16), torch.ones(4, 16, 16)])
    sources, images = control.stepped(latents, 3, STEPS)
    assert not sources.any()
    assert bool((images[:, :8] == 1).all()) and not bool(images[:, 10:].any())


@pytest.mark.parametrize("method", ["ddim", "edict"])
def test_blending_starts_late(pipe: Any, method: str) -> None:
    """EDICT steps each of its two latents, so that its pipeline takes twice the steps."""
    record = invert(pipe, "sample:person-1", SOURCE, method=method, steps=STEPS, size=(32, 32), guidance=1.5)
    never = Control(blend=("man", "man"), blend_from=1.0)
    late = Control(blend=("man", "man"), blend_from=0.8, threshold=1.0)  # nowhere is there so much
    (sources, plain), (_, off), (same, on) = (draw(pipe, record, c) for c in (Control(), never, late))
    assert torch.allclose(plain, off, atol=1e-3 * float(plain.abs().max()))
    assert torch.equal(on, same) and not torch.allclose(plain, sources)


def test_latents_without_a_layer_for_blending_are_refused() -> None:
    with pytest.raises(BadInput, match="no layer that says where"):
        LocalBlend(torch.ones(2, 4), 0.3).mask((4, 4))


@pytest.mark.parametrize(
    ("size", "sides"), [((64, 64), [16]), ((128, 128), [32]), ((16, 16), [16, 8]), ((96, 64), [24])]
)
def test_layers_are_chosen_relative_to_the_latents(size: tuple[int, int], sides: list[int]) -> None:
    grids = [blend_grid(size, (size[0] >> n) * (size[1] >> n)) for n in range(4)]
    assert [max(grid) for grid in grids if grid] == sides


def test_windows_by_word(pipe: Any) -> None:
    made = plan(pipe.tokenizer, Control(cross={"default": 0.8, "smiling": (0.2, 0.4)}), SOURCE, TARGET)
    windows = {(round(float(a), 2), round(float(b), 2)) for a, b in zip(made.first, made.last, strict=True)}
    assert windows == {(0.0, 0.8), (0.2, 0.4)}
    with pytest.raises(BadInput, match="does not hold 'hat'"):
        plan(pipe.tokenizer, Control(cross={"hat": 0.5}), SOURCE, TARGET)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "swap"},
        {"blend": "man"},
        {"threshold": (0.1, 0.5)},
        {"cross": None},
        {"cross": 1.5},
        {"self_attention": (0.5, 0.2)},
        {"reweight": {"a": float("nan")}},
    ],
    ids=str,
)
def test_controls_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Control(**wrong)


def test_an_adapter_takes_part() -> None:
    """The photo's person is kept by InstantID while it is edited, and all is taken out again."""
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    adapter = load_adapter("instantid", base=pipe)
    who = adapter.read("sample:person-1")
    record = invert(pipe, "sample:person-1", "a photo of a woman", steps=4, guidance=3.0)
    plain = edit(pipe, record, "a photo of a smiling woman", output_type="latent")
    with adapter.attach(pipe, who, scale=0.8):
        kept = edit(pipe, record, "a photo of a smiling woman", output_type="latent")
    assert torch.equal(kept.sources, plain.sources), "the photo stays on its pivots"
    assert not torch.allclose(kept.images, plain.images, atol=1e-2)
    again = edit(pipe, record, "a photo of a smiling woman", output_type="latent")
    assert torch.equal(again.images, plain.images)

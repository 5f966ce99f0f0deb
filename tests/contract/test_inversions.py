"""Photos inverted and edited with an adapter attached: the model is told who it is on both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from idpersona.errors import BadInput
from idpersona.pipelines.editing.edit import edit, reconstruct
from idpersona.pipelines.inversion.methods import invert
from idpersona.pipelines.inversion.record import Inversion, InversionError
from idpersona.pipelines.inversion.schedule import ddim
from idpersona.seams.call import is_attached

from .conftest import Row

PHOTO, SOURCE, TARGET, STEPS = "sample:person-1", "a photo of a man", "a photo of a smiling man", 3


def inverted(row: Row, method: str = "direct") -> Inversion:
    return invert(
        row.pipe, PHOTO, SOURCE, method=method, steps=STEPS, guidance=4.0, size=(row.size, row.size)
    )


def test_a_photo_is_edited_in_the_scope_it_was_inverted_in(row: Row, tmp_path: Path) -> None:
    pipe, scheduler, person = row.pipe, row.pipe.scheduler, row.person(1)
    guidance = getattr(pipe, "_guidance_scale", None)
    with row.attach(person, scale=row.strong):
        record = inverted(row)
        assert record.attached and pipe.scheduler is scheduler
        assert getattr(pipe, "_guidance_scale", None) == guidance
        drawn = edit(pipe, record, TARGET, control=None, output_type="latent")
        again = edit(
            pipe,
            Inversion.load(record.save(tmp_path / "a.safetensors")),
            TARGET,
            control=None,
            output_type="latent",
        )
    assert torch.equal(drawn.sources, record.latents[0]) and torch.equal(again.images, drawn.images)
    assert not is_attached(pipe.unet) and pipe.scheduler is scheduler
    plain = inverted(row)
    assert not plain.attached and not torch.allclose(plain.latents[-1], record.latents[-1], atol=1e-3)
    without = edit(pipe, plain, TARGET, control=None, output_type="latent")
    assert not torch.allclose(without.images, drawn.images, atol=1e-3)
    for use in (lambda: edit(pipe, record, TARGET), lambda: reconstruct(pipe, record)):
        with pytest.raises(InversionError, match="adapter attached"):
            use()


def test_guidance_leads_to_nobody_where_the_prompts_are_one(row: Row) -> None:
    with row.attach(row.person(1), scale=row.strong):
        record = inverted(row, "negative-prompt")
        guided = edit(row.pipe, record, SOURCE, control=None, output_type="latent")
        own, row.pipe.scheduler = row.pipe.scheduler, ddim(record.scheduler, STEPS)
        try:
            plain = row.draw(prompt=SOURCE, latents=record.latents[-1], guidance_scale=1.0)
        finally:
            row.pipe.scheduler = own
    size = float(plain.abs().max())
    assert torch.allclose(guided.images, plain, atol=1e-4 * size)
    assert torch.allclose(guided.sources, plain, atol=1e-4 * size)


def test_every_inversion_takes_an_adapter(all_rows: dict[str, Row]) -> None:
    row, errors = all_rows["instantid-sd15"], {}
    with row.attach(row.person(1)):
        for method in ("ddim", "null-text", "edict", "renoise", "proximal"):
            record = inverted(row, method)
            drawn = edit(row.pipe, record, TARGET, control=None, output_type="latent")
            assert record.attached and bool(torch.isfinite(drawn.images).all())
            errors[method] = float((drawn.sources - record.latents[0][:1]).square().mean())
    assert errors["null-text"] < errors["ddim"] and errors["edict"] < 0.01 * errors["ddim"]


def test_what_has_no_part_in_an_inversion_is_refused(all_rows: dict[str, Row]) -> None:
    row, text = all_rows["instantid-sd15"], all_rows["decor-sd15"]
    with text.attach(None), pytest.raises(BadInput, match="plain prompts"):
        inverted(text)
    with row.attach(row.person(1)), pytest.raises(BadInput, match="works without adapters"):
        inverted(row, "ledits")

"""The inversion record and its file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from idpersona.errors import OutputError
from idpersona.pipelines.inversion.record import Inversion, InversionError


@pytest.fixture
def record() -> Inversion:
    return Inversion(
        method="null-text",
        prompts=("a photo of a man", "a photo, of a “cat”."),
        latents=torch.randn(5, 2, 4, 8, 8),
        unconditional=torch.randn(4, 2, 7, 16),
        guidance=7.5,
        scheduler={"beta_start": 0.1, "prediction_type": "epsilon"},
        model="abc",
        options={"inner": 2},
        passes=17,
    )


def test_a_file_gives_back_the_record(record: Inversion, tmp_path: Path) -> None:
    path = record.save(tmp_path / "a.safetensors")
    again = Inversion.load(path)
    for field in dataclasses.fields(Inversion):
        one, other = getattr(record, field.name), getattr(again, field.name)
        same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
        assert same, field.name
    assert again.steps == 4 and again.photos == 2 and again.size == (8, 8)
    with pytest.raises(OutputError, match="exists"):
        record.save(path)


def test_another_model_prompt_or_number_of_steps_is_refused(record: Inversion) -> None:
    record.check(model="abc", prompts=record.prompts, steps=4)
    with pytest.raises(InversionError, match="another base"):
        record.check(model="abd")
    with pytest.raises(InversionError, match="leave the source prompt out"):
        record.check(model="abc", prompts=("a photo of a man", "a dog"))
    with pytest.raises(InversionError, match="4 steps, not 5"):
        record.check(model="abc", steps=5)


def test_damaged_files_are_refused_in_one_line(record: Inversion, tmp_path: Path) -> None:
    whole = record.save(tmp_path / "a.safetensors").read_bytes()
    file = tmp_path / "b.safetensors"
    for content in (b"", b"no", whole[:200], whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(InversionError, match=r"b\.safetensors"):
            Inversion.load(file)
    with pytest.raises(InversionError, match="no inversion file"):
        Inversion.load(tmp_path / "none.safetensors")
    save_file({"latents": torch.zeros(2, 1, 4, 8, 8)}, file)
    with pytest.raises(InversionError, match="no inversion file"):
        Inversion.load(file)
    head = {"format": "idpersona.inversion", "inversion": "{}"}
    save_file({"x": torch.zeros(1)}, file, metadata={**head, "version": "2"})
    with pytest.raises(InversionError, match="update idpersona"):
        Inversion.load(file)
    save_file({"x": torch.zeros(1)}, file, metadata={**head, "version": "1"})
    with pytest.raises(InversionError, match="damaged"):
        Inversion.load(file)


def test_records_that_make_no_sense_are_refused(record: Inversion) -> None:
    with pytest.raises(InversionError, match="not finite"):
        dataclasses.replace(record, latents=record.latents / 0)
    with pytest.raises(InversionError, match="steps"):
        dataclasses.replace(record, unconditional=torch.zeros(3, 2, 7, 16))
    with pytest.raises(InversionError, match="3 photos, not 2"):
        dataclasses.replace(record, unconditional=torch.zeros(4, 3, 7, 16))
    with pytest.raises(InversionError, match="prompts"):
        dataclasses.replace(record, prompts=("one", "two", "three"))

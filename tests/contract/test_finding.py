"""Which weights a name, a folder and a base stand for, and what is said when they stand for none."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from idpersona.adapters import load_adapter
from idpersona.adapters.loading import base_family
from idpersona.errors import BadInput, CheckpointError, MissingWeights, UnknownName
from idpersona.seams.mask import as_mask


def test_an_unknown_base_is_named_with_its_nearest() -> None:
    with pytest.raises(UnknownName, match="unknown base 'minni': did you mean mini"):
        load_adapter("instantid", base="minni")


def test_a_hub_base_that_cannot_be_fetched_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(MissingWeights, match=r"nobody/nothing.*could not be fetched"):
        load_adapter("instantid", base="nobody/nothing")
    (tmp_path / "base").mkdir()
    with pytest.raises(BadInput, match=r"no readable unet/config\.json"):
        load_adapter("instantid", base=str(tmp_path / "base"))


@pytest.mark.parametrize("base", [None, 3, SimpleNamespace(unet=SimpleNamespace(config={}))])
def test_what_is_no_base_is_refused(base: Any) -> None:
    with pytest.raises(BadInput, match="base"):
        base_family(base)


def test_a_base_with_a_text_width_for_each_block_is_refused() -> None:
    config = {"cross_attention_dim": [768, 768]}
    with pytest.raises(BadInput, match="text width"):
        base_family(SimpleNamespace(unet=SimpleNamespace(config=config)))


def test_a_folder_of_the_same_name_does_not_hide_a_registered_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "instantid").mkdir()
    with pytest.raises(MissingWeights, match="models pull instantid"):
        load_adapter("instantid", base="sdxl")


def test_options_for_published_layouts_are_refused_for_our_own(row: Any, tmp_path: Path) -> None:
    row.adapter.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="kps_radius"):
        load_adapter(tmp_path, base=row.pipe, kps_radius=5)


def test_a_part_that_is_gone_is_not_kept_in_the_folder(row: Any, tmp_path: Path) -> None:
    """Saving over an older adapter must not mix the two."""
    (tmp_path / "adapter.json").write_text("{}")
    row.adapter.save_pretrained(tmp_path)
    net, row.adapter.identitynet = row.adapter.identitynet, None
    try:
        row.adapter.save_pretrained(tmp_path)
    finally:
        row.adapter.identitynet = net
    again: Any = load_adapter(tmp_path, base=row.pipe)
    assert again.identitynet is None


@pytest.mark.parametrize("mask", [{}, "", object(), [torch.ones(4, 4), torch.ones(8, 8)], [], [[None]]])
def test_what_is_no_mask_is_refused(mask: Any) -> None:
    with pytest.raises(BadInput):
        as_mask(mask)


def test_a_folder_without_a_known_file_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "ip-adapter_sd15.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no adapter.*models/ip-adapter_sd15\.bin: give one of these"):
        load_adapter(tmp_path)


def test_options_of_attach_are_not_for_loading() -> None:
    with pytest.raises(BadInput, match="decor has nothing to load: give words to attach"):
        load_adapter("decor", words="hat")


def test_loading_for_a_base_that_is_offloaded_piece_by_piece(row: Any, new_row: Any, tmp_path: Path) -> None:
    """Its U-Net lies on the meta device between the calls; the adapter's weights must not follow it."""
    from accelerate import cpu_offload

    own = new_row(row)
    with own.attach(own.person(1)):
        expected = own.draw()
    folder = own.adapter.save_pretrained(tmp_path)
    cpu_offload(own.pipe.unet, torch.device("cpu"))
    assert own.pipe.unet.device.type == "meta"
    loaded = load_adapter(folder, base=own.pipe)
    assert {weight.device.type for part in loaded.parts.values() for weight in part.parameters()} <= {"cpu"}
    with own.attach(own.person(1), adapter=loaded):
        assert torch.allclose(own.draw(), expected, atol=1e-5)

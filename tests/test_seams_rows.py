"""Scales by layer, region masks, and which row belongs to whom."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from idpersona.errors import BadInput, SeamError
from idpersona.seams.call import Call
from idpersona.seams.mask import as_mask, layer_grid, mask_at
from idpersona.seams.scale import resolve_scales


def test_scales_by_pattern() -> None:
    layers = ["down_blocks.0.attn2", "up_blocks.0.attn2", "up_blocks.1.attn2"]
    assert resolve_scales(layers, 0.5, {"up_blocks.*": 1, "up_blocks.1": 0}) == {
        layers[0]: 0.5,
        layers[1]: 1.0,
        layers[2]: 0.0,
    }
    with pytest.raises(BadInput, match="up_block"):
        resolve_scales(layers, 0.5, {"up_block": 1})  # a leading part ends at a dot


def test_masks_from_what_users_have() -> None:
    picture = Image.new("L", (8, 4), 0)
    picture.paste(255, (0, 0, 4, 4))
    mask = as_mask(picture)
    assert mask.shape == (1, 1, 4, 8) and mask[0, 0, :, :4].eq(1).all() and mask[0, 0, :, 4:].eq(0).all()
    assert torch.equal(as_mask([picture, picture]), torch.cat([mask, mask]))
    for wrong in (torch.full((4, 4), 2.0), torch.full((4, 4), float("nan")), torch.ones(3), torch.ones(0, 4)):
        with pytest.raises(BadInput):
            as_mask(wrong)


def test_a_layers_grid_is_found_by_halving() -> None:
    assert layer_grid((12, 20), 240) == (12, 20)
    assert layer_grid((13, 21), 7 * 11) == (7, 11)  # stride 2 with padding rounds up
    assert layer_grid((16, 16), 50) is None
    with pytest.raises(SeamError, match=r"mid_block\.attn2"):
        mask_at(torch.ones(1, 1, 8, 8), (16, 16), 50, "mid_block.attn2")
    wide = torch.zeros(1, 1, 64, 128)
    wide[..., 64:] = 1
    assert mask_at(wide, (16, 32), 8 * 16, "x").view(8, 16)[:, 8:].eq(1).all()


def test_rows_of_a_guided_batch() -> None:
    call = Call(rows=8, guided=True)
    assert call.row_index(2, unconditional=True) == [0, 0, 0, 0, 1, 1, 2, 2]
    assert call.row_index(2, unconditional=False) == [0, 0, 1, 1, 0, 0, 1, 1]
    call.guided = False
    assert call.row_index(2, unconditional=False) == [0, 0, 0, 0, 1, 1, 1, 1]
    with pytest.raises(SeamError, match="8 pictures"):
        call.row_index(3, unconditional=False)

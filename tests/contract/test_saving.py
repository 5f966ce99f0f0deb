"""Contract 3: what is saved comes back exactly, in safetensors only; what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from idpersona.adapters import load_adapter
from idpersona.errors import CheckpointError, MissingWeights, OutputError, UnknownName


def test_saved_and_loaded_under_another_seed(row: Any, tmp_path: Path) -> None:
    with row.attach(row.person(1)):
        before = row.draw()
    row.adapter.save_pretrained(tmp_path)
    kinds = {".json", ".safetensors"} if row.adapter.parts else {".json"}
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == kinds
    torch.manual_seed(99)
    loaded = load_adapter(tmp_path, base=row.pipe)
    assert type(loaded) is type(row.adapter) and loaded.encoders == row.adapter.encoders
    assert loaded.config_dict() == row.adapter.config_dict()
    with row.attach(row.person(1), adapter=loaded):
        assert torch.equal(row.draw(), before)


def _first_weights(folder: Path) -> Path:
    return sorted(folder.rglob("*.safetensors"))[0]


def test_a_checkpoint_that_does_not_fit_names_the_keys(row: Any, tmp_path: Path) -> None:
    row.adapter.save_pretrained(tmp_path)
    file = _first_weights(tmp_path)
    state = load_file(file)
    names = sorted(state)
    broken = {
        "missing": {name: value for name, value in state.items() if name != names[0]},
        "unexpected": state | {"bogus.weight": torch.zeros(1)},
        "misshapen": state | {names[1]: torch.zeros(3, 1)},
    }
    for what, name in (("missing", names[0]), ("unexpected", "bogus.weight"), ("misshapen", names[1])):
        save_file(broken[what], file)
        with pytest.raises(CheckpointError) as caught:
            load_adapter(tmp_path, base=row.pipe)
        assert what in str(caught.value) and name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_damaged_files_are_refused(row: Any, tmp_path: Path) -> None:
    row.adapter.save_pretrained(tmp_path)
    file = _first_weights(tmp_path)
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-10]):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=file.name.split(".")[0]):
            load_adapter(tmp_path, base=row.pipe)
    file.unlink()
    with pytest.raises(CheckpointError, match="holds no"):
        load_adapter(tmp_path, base=row.pipe)


def test_senseless_heads_are_refused(row: Any, tmp_path: Path) -> None:
    row.adapter.save_pretrained(tmp_path)
    path = tmp_path / "adapter.json"
    head = json.loads(path.read_text())
    for change in (
        {"format_version": 2},
        {"format_version": None},
        {"method": "no-such-method"},
        {"method": 3},
        {"config": head["config"] | {"bogus": 1}},
        {"config": head["config"] | {"encoder": 1}},
    ):
        path.write_text(json.dumps(head | change))
        with pytest.raises((CheckpointError, UnknownName)):
            load_adapter(tmp_path, base=row.pipe)
    numbers = [name for name, value in head["config"].items() if type(value) in (int, float)]
    for name in numbers:
        path.write_text(
            json.dumps(head | {"config": head["config"] | {name: type(head["config"][name])(-1)}})
        )
        with pytest.raises(CheckpointError, match=name):
            load_adapter(tmp_path, base=row.pipe)
    path.write_text("{")
    with pytest.raises(CheckpointError, match=r"adapter\.json"):
        load_adapter(tmp_path, base=row.pipe)


def test_an_adapter_of_another_base_is_refused(row: Any, tmp_path: Path) -> None:
    """A layer that the base does not have, and one of another width, are named."""
    unet: Any = row.pipe.unet
    sizes = dict(row.adapter.cross_attention.config["geometry"])
    first, *_, last = (name for name in sizes if name.startswith("up_blocks.0"))
    moved = first.replace("up_blocks.0", "up_blocks.7")
    changed = {moved if name == first else name: size for name, size in sizes.items()} | {last: (8, 8)}
    renamed = type(row.adapter.cross_attention)(changed)
    own, row.adapter.cross_attention = row.adapter.cross_attention, renamed
    try:
        with pytest.raises(CheckpointError, match=r"up_blocks\.7"):
            row.adapter.check_fits(unet)
        with pytest.raises(CheckpointError, match="misshapen"), row.attach(row.person(1)):
            pytest.fail("the scope was entered")
    finally:
        row.adapter.cross_attention = own


def test_saving_where_nothing_can_be_written(row: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        row.adapter.save_pretrained(tmp_path / "file")


def test_an_interrupted_save_leaves_what_was_there(
    row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row.adapter.save_pretrained(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    last = list(row.adapter.parts.values())[-1]

    def full(*_: Any, **__: Any) -> None:
        raise OSError("No space left on device")

    parameters = [p for part in row.adapter.parts.values() for p in part.parameters()]
    kept = [p.detach().clone() for p in parameters]
    for parameter in parameters:
        parameter.data.add_(1.0)
    try:
        with monkeypatch.context() as patch:
            patch.setattr(last, "save_pretrained", full)
            with pytest.raises(OutputError, match="No space left"):
                row.adapter.save_pretrained(tmp_path)
        after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        assert after == before
        row.adapter.save_pretrained(tmp_path)
        assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(before)
        assert _first_weights(tmp_path).read_bytes() != before[_first_weights(tmp_path)]
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data.copy_(value)


def test_unknown_names() -> None:
    with pytest.raises(UnknownName, match="instantid"):
        load_adapter("instantidd")
    with pytest.raises(MissingWeights):
        load_adapter("./no/such/folder")

"""Loading a base by name, folder or hub id, and every way in which that can fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

from idpersona.errors import BadInput, CheckpointError, MissingWeights, UnknownName
from idpersona.pipelines import load_base
from idpersona.testing import KINDS, tiny_components, tiny_inputs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    StableDiffusionPipeline(**tiny_components("sd15"), requires_safety_checker=False).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("as_text", [True, False])
def test_folder(folder: Path, as_text: bool) -> None:
    pipe: Any = load_base(str(folder) if as_text else folder)
    assert type(pipe) is StableDiffusionPipeline
    assert pipe.unet.dtype == torch.float32
    saved = tiny_components("sd15")["unet"].state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in pipe.unet.state_dict().items())


@pytest.mark.parametrize("dtype", ["bf16", torch.bfloat16])
def test_dtype(folder: Path, dtype: Any) -> None:
    pipe: Any = load_base(folder, dtype=dtype)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("sdx", UnknownName, "unknown base 'sdx': did you mean sdxl"),
        ("/nowhere/at/all", MissingWeights, "there is no folder /nowhere/at/all"),
        ("./mini2", MissingWeights, "there is no folder"),
    ],
)
def test_no_such_base(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_base(name)


def test_registry_base_that_is_not_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_a, **_k: None)
    with pytest.raises(MissingWeights, match="idpersona models pull sdxl"):
        load_base("sdxl")


def test_hub_id_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeights, match="idpersona-tests/nothing-here' is no folder"):
        load_base("idpersona-tests/nothing-here")


def test_broken_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model_index\.json"):
        load_base(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read .*model_index\.json"):
        load_base(tmp_path)
    (tmp_path / "model_index.json").write_text((folder / "model_index.json").read_text())
    with pytest.raises(CheckpointError, match="cannot be loaded as a base") as raised:
        load_base(tmp_path)
    assert "\n" not in str(raised.value)


def test_single_file(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\0")
    with pytest.raises(CheckpointError, match="is a single file"):
        load_base(tmp_path / "model.safetensors")


def test_bad_device_and_dtype(folder: Path) -> None:
    with pytest.raises(BadInput, match="device 'abacus' cannot be used"):
        load_base(folder, device="abacus")
    with pytest.raises(UnknownName, match="unknown dtype 'fp15': did you mean fp16"):
        load_base(folder, dtype="fp15")


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_models_are_seeded_and_leave_torch_alone(kind: str) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (tiny_components(kind, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, part in first.items():
        if isinstance(part, torch.nn.Module):
            weights = part.state_dict()
            same, different = again[name].state_dict(), other[name].state_dict()
            assert all(torch.equal(value, same[key]) for key, value in weights.items())
            assert any(not torch.equal(value, different[key]) for key, value in weights.items())
            assert not part.training
    assert set(tiny_inputs(kind)) >= {"prompt", "generator", "num_inference_steps", "output_type"}


def test_unknown_kind() -> None:
    with pytest.raises(UnknownName, match="did you mean sdxl"):
        tiny_components("sdx")
    with pytest.raises(UnknownName, match="did you mean sdxl"):
        tiny_inputs("sdx")


def test_a_folder_of_the_same_name_does_not_hide_a_registered_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The licence that was checked is the registry's, so the weights must be the registry's too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IDPERSONA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "sdxl").mkdir()
    with pytest.raises(MissingWeights, match="models pull sdxl"):
        load_base("sdxl")
    with pytest.raises(CheckpointError, match="model_index"):
        load_base("./sdxl")

"""Publishing: float16 files that stock classes read as float32; the card stays, a failure loses nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file

from idpersona.adapters import load_adapter
from idpersona.encoders.small_cnn import SmallFaceCNN
from idpersona.errors import MissingWeights
from idpersona.training.publish import POSE_GAIN, main, publish_runs


@pytest.fixture(scope="session")
def published(diffusion_run: Path, labeler_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An assets folder with a model card in it, after publishing over an older model."""
    runs, assets = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("assets")
    (runs / "mini").symlink_to(diffusion_run)
    (runs / "labeler").symlink_to(labeler_run)
    (assets / "mini" / "old").mkdir(parents=True)
    (assets / "mini" / "README.md").write_text("# card\n")
    publish_runs(runs, assets)
    return assets


def floats(folder: Path) -> dict[str, torch.dtype]:
    tensors = {}
    for path in folder.rglob("*.safetensors"):
        for name, value in load_file(path).items():
            if value.is_floating_point():
                tensors[f"{path.parent.name}.{name}"] = value.dtype
    return tensors


def test_every_number_is_half_precision(published):
    for name in ("mini", "instantid-mini", "classifiers/labeler"):
        kinds = floats(published / name)
        assert kinds and set(kinds.values()) == {torch.float16}
    assert not list(published.rglob("*.bin"))


def test_the_base_loads_in_full_precision_by_default_and_in_half_when_asked(published, diffusion_run):
    pipe = StableDiffusionPipeline.from_pretrained(published / "mini")
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
    half = StableDiffusionPipeline.from_pretrained(published / "mini", torch_dtype=torch.float16)
    for part in (half.unet, half.vae, half.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float16}
    trained = load_file(diffusion_run / "base" / "unet" / "diffusion_pytorch_model.safetensors")
    for name, value in pipe.unet.state_dict().items():
        assert torch.allclose(value, trained[name], atol=1e-3), name
    pipe.set_progress_bar_config(disable=True)
    picture = pipe("a photo of a woman", num_inference_steps=2).images[0]
    assert picture.size == (128, 128) and np.asarray(picture).std() > 0
    assert "block_out_channels" not in json.loads((published / "mini" / "vae" / "config.json").read_text())
    adapter = load_adapter(published / "instantid-mini", base=pipe)
    assert {p.dtype for part in adapter.parts.values() for p in part.parameters()} == {torch.float32}


def test_identitynet_is_published_stronger_by_the_stated_gain(published, diffusion_run):
    name = "identitynet/diffusion_pytorch_model.safetensors"
    before = load_file(diffusion_run / "instantid" / name)
    after = load_file(published / "instantid-mini" / name)
    outputs = {key for key in before if key.startswith(("controlnet_down_blocks.", "controlnet_mid_block."))}
    assert outputs
    for key, value in before.items():
        gain = POSE_GAIN if key in outputs else 1.0
        assert torch.allclose(after[key].float(), gain * value.float(), rtol=2e-3, atol=1e-6), key
    assert any(before[key].abs().max() > 0 for key in outputs)


def test_a_classifier_loads_in_full_precision_when_asked(published):
    network = SmallFaceCNN.from_pretrained(published / "classifiers" / "labeler", torch_dtype=torch.float32)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert network.config["metrics"]


def test_the_card_stays_and_what_was_there_before_goes(published):
    assert (published / "mini" / "README.md").read_text() == "# card\n"
    assert not (published / "mini" / "old").exists()
    assert not list(published.rglob(".*")), "nothing half-written is left"
    assert not (published / "judge").exists(), "a run that is not there publishes nothing"


def test_configurations_do_not_say_where_the_weights_were_made(published):
    configs = list(published.rglob("*.json"))
    assert len(configs) > 5
    assert not any("_name_or_path" in path.read_text() for path in configs)


def test_publishing_nothing_is_an_error(tmp_path, monkeypatch, capsys):
    with pytest.raises(MissingWeights, match="no finished run"):
        publish_runs(tmp_path / "typo", tmp_path / "assets")
    monkeypatch.setattr(sys, "argv", ["publish", "--runs", str(tmp_path / "typo")])
    assert main() == 2
    assert "no finished run" in capsys.readouterr().err


def test_a_run_that_cannot_be_read_leaves_what_was_published(tmp_path):
    (tmp_path / "runs" / "labeler" / "model").mkdir(parents=True)
    kept = tmp_path / "assets" / "classifiers" / "labeler" / "config.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("{}")
    with pytest.raises(OSError, match="config"):
        publish_runs(tmp_path / "runs", tmp_path / "assets")
    assert [p.name for p in (tmp_path / "assets" / "classifiers").rglob("*")] == ["labeler", "config.json"]

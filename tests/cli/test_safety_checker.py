"""The base's own safety checker: on unless it is switched off aloud. A real, tiny one on a tiny base."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from idpersona.provenance import read_settings


@pytest.fixture(scope="module", params=[("always", -2.0), ("never", 2.0)], ids=lambda p: p[0])
def guarded(request, tmp_path_factory) -> tuple[str, Path]:
    """ "always" or "never", and a base whose checker fires so."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    from idpersona.testing import tiny_components
    from idpersona.testing.checker import tiny_safety_checker

    name, threshold = request.param
    folder = tmp_path_factory.mktemp(name)
    StableDiffusionPipeline(**{**tiny_components("sd15"), **tiny_safety_checker(threshold)}).save_pretrained(
        folder
    )
    return name, folder


def test_it_stays_on(run, guarded, tiny, me, tmp_path):
    fires, base = guarded
    words = ["generate", "--base", base, "--adapter", tiny / "adapter", "--identity", me, "--prompt", "x"]
    words += ["--steps", 1, "--device", "cpu", "-o", tmp_path / "a.png"]
    out = run(*words)
    if fires == "always":
        assert out.status == 2
        assert "safety checker blocked the picture" in out.err.splitlines()[-1]
        assert not (tmp_path / "a.png").exists()
    else:
        out.done()
        assert "safety checker" not in out.err
        assert read_settings(tmp_path / "a.png")["safety_checker"] is True


def test_it_goes_off_aloud(run, guarded, tiny, me, tmp_path):
    _, base = guarded
    words = ["generate", "--base", base, "--adapter", tiny / "adapter", "--identity", me, "--prompt", "x"]
    words += ["--steps", 1, "--device", "cpu", "-o", tmp_path / "a.png", "--no-safety-checker"]
    out = run(*words).done()
    assert "note: the base's safety checker is switched off" in out.err
    assert read_settings(tmp_path / "a.png")["safety_checker"] is False


def test_a_damaged_checker_is_refused(run, guarded, tiny, me, tmp_path):
    """A checker with random weights would let everything pass, or nothing."""
    from safetensors.torch import load_file, save_file

    base = tmp_path / "base"
    shutil.copytree(guarded[1], base)
    weights = next((base / "safety_checker").glob("*.safetensors"))
    tensors = load_file(weights)
    del tensors["concept_embeds_weights"]
    save_file(tensors, weights, {"format": "pt"})
    words = ["generate", "--base", base, "--adapter", tiny / "adapter", "--identity", me, "--prompt", "x"]
    run(*words, "--steps", 1, "-o", tmp_path / "a.png").refused("missing: concept_embeds_weights")

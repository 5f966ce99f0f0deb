"""Tiny, real, seeded models and inputs for tests: nothing is downloaded, nothing is mocked.

``tiny_components(kind)`` returns the constructor arguments of a pipeline class, ``tiny_inputs(kind)`` the
arguments of its call:

| kind | pipeline class |
| --- | --- |
| ``sd15`` | ``diffusers.StableDiffusionPipeline`` |
| ``sdxl`` | ``diffusers.StableDiffusionXLPipeline`` |
| ``instantid-sd15`` | ``idpersona.pipelines.StableDiffusionInstantIDPipeline`` |
| ``instantid-sdxl`` | ``idpersona.pipelines.StableDiffusionXLInstantIDPipeline`` |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from idpersona.testing.components import tiny_components
    from idpersona.testing.inputs import tiny_inputs

KINDS = ("sd15", "sdxl", "instantid-sd15", "instantid-sdxl")

__all__ = ["KINDS", "tiny_components", "tiny_inputs"]


def __getattr__(name: str) -> Any:
    if name == "tiny_components":
        from idpersona.testing.components import tiny_components

        return tiny_components
    if name == "tiny_inputs":
        from idpersona.testing.inputs import tiny_inputs

        return tiny_inputs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What can be trained: each objective is one file with a typed configuration, listed here by its ``kind``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from idpersona.errors import BadInput, UnknownName
from idpersona.training.config import Recipe, parse
from idpersona.training.loop import Objective

KINDS = (
    "autoencoder",
    "attributes",
    "identity-judge",
    "latent-descriptor",
    "masked-autoencoder",
    "style-autoencoder",
    "diffusion",
    "instantid",
    "infinite-id",
    "wplus",
    "anymaker",
    "lora",
    "persona",
    "sliders",
    "id-aligner",
)
ADAPTERS = ("instantid", "infinite-id", "wplus", "anymaker")
"""Those of the kinds that train an adapter on a base that stays."""


def build_objective(recipe: Recipe, where: str = "objective") -> Objective:
    """The objective that ``recipe.objective['kind']`` names; ``where`` its table stands, for messages.

    Raises UnknownName and BadInput.
    """
    kind = str(recipe.objective.get("kind", ""))

    def config(model: Any) -> Any:
        return parse(model, recipe.objective, f"recipe {recipe.name}: {where}")

    # Imported here, so that a recipe loads only what it trains.
    if kind == "autoencoder":
        from idpersona.training.objectives.autoencoder import AutoencoderConfig, AutoencoderObjective

        return AutoencoderObjective(config(AutoencoderConfig), recipe.init_from)
    if kind == "attributes":
        from idpersona.training.objectives.attributes import AttributesConfig, AttributesObjective

        return AttributesObjective(config(AttributesConfig))
    if kind == "identity-judge":
        from idpersona.training.objectives.judge import JudgeConfig, JudgeObjective

        return JudgeObjective(config(JudgeConfig))
    if kind == "latent-descriptor":
        from idpersona.training.objectives.latent_descriptor import (
            LatentDescriptorConfig,
            LatentDescriptorObjective,
        )

        return LatentDescriptorObjective(config(LatentDescriptorConfig))
    if kind == "masked-autoencoder":
        from idpersona.training.objectives.masked_autoencoder import (
            MaskedAutoencoderConfig,
            MaskedAutoencoderObjective,
        )

        return MaskedAutoencoderObjective(config(MaskedAutoencoderConfig))
    if kind == "style-autoencoder":
        from idpersona.training.objectives.style_autoencoder import (
            StyleAutoencoderConfig,
            StyleAutoencoderObjective,
        )

        return StyleAutoencoderObjective(config(StyleAutoencoderConfig))
    if kind == "diffusion":
        from idpersona.training.objectives.diffusion import DiffusionObjective
        from idpersona.training.objectives.diffusion_config import DiffusionConfig

        return DiffusionObjective(config(DiffusionConfig), recipe.init_from, Path(recipe.output))
    if kind == "instantid":
        from idpersona.training.objectives.instantid import InstantIDObjective, InstantIDTrainingConfig

        return InstantIDObjective(config(InstantIDTrainingConfig), recipe.init_from)
    if kind == "infinite-id":
        from idpersona.training.objectives.infinite_id import InfiniteIDObjective, InfiniteIDTrainingConfig

        return InfiniteIDObjective(config(InfiniteIDTrainingConfig), recipe.init_from)
    if kind == "wplus":
        from idpersona.training.objectives.wplus import WPlusObjective, WPlusTrainingConfig

        return WPlusObjective(config(WPlusTrainingConfig), recipe.init_from)
    if kind == "anymaker":
        from idpersona.training.objectives.anymaker import AnyMakerObjective, AnyMakerTrainingConfig

        return AnyMakerObjective(config(AnyMakerTrainingConfig), recipe.init_from)
    if kind == "lora":
        from idpersona.training.objectives.lora import LoraConfig, LoraObjective

        return LoraObjective(config(LoraConfig))
    if kind == "persona":
        from idpersona.training.objectives.persona import PersonaObjective
        from idpersona.training.objectives.persona_config import PersonaConfig

        return PersonaObjective(config(PersonaConfig), Path(recipe.output))
    if kind == "sliders":
        from idpersona.training.objectives.sliders import SlidersConfig, SlidersObjective

        return SlidersObjective(config(SlidersConfig))
    if kind == "id-aligner":
        from idpersona.training.objectives.id_aligner import IdAlignerConfig, IdAlignerObjective

        aligner = config(IdAlignerConfig)
        return IdAlignerObjective(aligner, _adapter(recipe, aligner.adapter))
    raise UnknownName("training objective", kind, KINDS)


def _adapter(recipe: Recipe, table: dict[str, Any]) -> Any:
    """The objective of the adapter that ``recipe`` has rewarded. Raises UnknownName and BadInput."""
    kind = str(table.get("kind", ""))
    if kind not in ADAPTERS:
        raise UnknownName("adapter in objective.adapter.kind", kind, ADAPTERS)
    if recipe.init_from is None:
        raise BadInput(
            f"recipe {recipe.name}: reward init_from must say where the adapter lies that is rewarded"
        )
    return build_objective(recipe.model_copy(update={"objective": table}), "objective.adapter")

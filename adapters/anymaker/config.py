"""What an AnyMaker checkpoint was made for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from idpersona.adapters.config import AdapterConfig


@dataclass(frozen=True)
class AnyMakerConfig(AdapterConfig):
    """The defaults are SD1.5's with DINOv2 ViT-L/14 and MAE ViT-L/16; the paper gives no sizes.

    Attributes:
        encoders: registry names of the object encoders.
        dims: length of a token of each.
        hidden: width inside the mapper of the global token.
        output_dim: width of a token: the base's text width.
        depth: transformer blocks over the tokens of each photo, in the mapper.
        mask: where a photo's mask comes from when none is given: ``alpha``, ``face`` or ``segment`` (see
            :mod:`idpersona.encoders.subject`).
        words: category words that are looked for in the prompt, in this order, when the option ``word`` names
            none.
    """

    encoders: tuple[str, ...] = ("dinov2", "mae")
    dims: tuple[int, ...] = (1024, 1024)
    hidden: int = 1536
    output_dim: int = 768
    depth: int = 0
    mask: str = "alpha"
    words: tuple[str, ...] = ("object", "thing", "toy", "animal", "person")

    def mapper_sizes(self) -> dict[str, Any]:
        """Keyword arguments of :class:`~idpersona.adapters.anymaker.modules.AnyMakerMapper`."""
        return {
            "dims": self.dims,
            "hidden": self.hidden,
            "output_dim": self.output_dim,
            "depth": self.depth,
        }

"""What a W+ adapter was made for."""

from __future__ import annotations

from dataclasses import dataclass

from idpersona.adapters.config import AdapterConfig


@dataclass(frozen=True)
class WPlusConfig(AdapterConfig):
    """The defaults are those of the published SD1.5 weights.

    Attributes:
        encoder: registry name of the encoder whose W+ codes are read.
        rows, dim: of a W+ code.
        groups: how many rows, from the first on, become each token; they add up to ``rows``.
        output_dim: width of a token: the base's text width.
        delay: share of the steps before the adapter acts (delayed injection): the prompt settles the picture
            first. Published for stage 2 is that it waits one step more than 20 % of them, which 0.22 says for
            30 and for 50 steps; 0 for weights trained on faces alone (stage 1).
    """

    encoder: str = "e4e"
    rows: int = 18
    dim: int = 512
    groups: tuple[int, ...] = (4, 4, 4, 6)
    output_dim: int = 768
    delay: float = 0.22

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoders whose features an identity must hold."""
        return (self.encoder,)

    def mapper_sizes(self) -> dict[str, object]:
        """Keyword arguments of :class:`~idpersona.adapters.wplus.modules.WPlusMapper`."""
        return {"dim": self.dim, "groups": self.groups, "output_dim": self.output_dim}

"""What an Infinite-ID checkpoint was made for."""

from __future__ import annotations

from dataclasses import dataclass

from idpersona.adapters.config import AdapterConfig


@dataclass(frozen=True)
class InfiniteIDConfig(AdapterConfig):
    """Sizes and encoders; the defaults are those of SDXL as the paper describes them, or our own choice.

    Attributes:
        image_encoder: registry name of the encoder whose hidden states are read (CLIP ViT-H/14: 257 x 1280).
        image_tokens, image_dim: rows and length of its feature of one photo.
        face_encoder, face_dim: registry name and length of the face vector.
        face_tokens: tokens made of the face vector.
        face_hidden: width inside the face mapper.
        output_dim: width of a token: the base's text width.
        style_merge: default of the option of that name.
        text: default of the option ``text``, the weight of the text's cross-attention beside the identity's.
        mixed: default of the scale ``mixed``.
    """

    image_encoder: str = "clip-h"
    image_tokens: int = 257
    image_dim: int = 1280
    face_encoder: str = "antelopev2"
    face_dim: int = 512
    face_tokens: int = 4
    face_hidden: int = 1024
    output_dim: int = 2048
    style_merge: bool = False
    text: float = 1.0
    mixed: float = 1.0

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoders whose features an identity must hold."""
        return (self.face_encoder, self.image_encoder)

    def mapper_sizes(self) -> dict[str, int]:
        """Keyword arguments of :class:`~idpersona.adapters.infinite_id.modules.InfiniteIDMapper`."""
        names = ("image_dim", "face_dim", "face_tokens", "face_hidden", "output_dim")
        return {name: getattr(self, name) for name in names}

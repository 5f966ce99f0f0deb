"""What an IP-Adapter checkpoint does not say about itself."""

from __future__ import annotations

from dataclasses import dataclass

from idpersona.adapters.config import AdapterConfig


@dataclass(frozen=True)
class IPAdapterConfig(AdapterConfig):
    """One published file.

    Attributes:
        image_encoder: registry name of the encoder of the picture; "none" where only the face vector is read.
        face_encoder: registry name of the encoder of the face vector, which is brought to unit length; "none"
            where only the picture is read.
        shortcut: FaceID-Plus v2: the face vector's tokens are added to what the resampler makes of them.
    """

    image_encoder: str = "clip-h-embed"
    face_encoder: str = "none"
    shortcut: bool = False

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoders whose features an identity must hold."""
        return tuple(name for name in (self.face_encoder, self.image_encoder) if name != "none")

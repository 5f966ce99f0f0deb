"""What an InstantID checkpoint does not say about itself, and what a base of another size changes."""

from __future__ import annotations

from dataclasses import dataclass

from idpersona.adapters.config import AdapterConfig
from idpersona.errors import CheckpointError


@dataclass(frozen=True, kw_only=True)
class InstantIDConfig(AdapterConfig):
    """Sizes and preprocessing of one InstantID; the defaults are those of the published SDXL weights.

    Attributes:
        encoder: name of the face encoder whose space the projector was trained in.
        embedding_dim: length of the encoder's vector.
        normalised: the vector has unit length. InstantID takes the raw one.
        dim, depth, dim_head, heads, ff_mult: sizes of the projector.
        num_tokens: identity tokens it gives.
        output_dim: width of a token, the context width of the base's cross-attention.
        framing: (eye distance as a part of the width, eye line as a part of the height) at which a face is
            placed when no pose is given, for bases trained on one framing; None fits the whole photo.
        framing_freedom: (smallest size, largest size, shift) relative to ``framing`` that the base was
            trained on; a pose photo places the face as it has it, within these. None: anywhere.
        kps_radius, kps_stick_width: pixels, size of the key points and limbs that are drawn.
        resize_max_side, resize_min_side, resize_multiple: pixels, how large a picture in the pose of a photo
            becomes (:func:`~idpersona.keypoints.resize_sizes`).
    """

    encoder: str = "antelopev2"
    embedding_dim: int = 512
    normalised: bool = False
    dim: int = 1280
    depth: int = 4
    dim_head: int = 64
    heads: int = 20
    num_tokens: int = 16
    output_dim: int = 2048
    ff_mult: int = 4
    framing: tuple[float, float] | None = None
    framing_freedom: tuple[float, float, float] | None = None
    kps_radius: int = 10
    kps_stick_width: int = 4
    resize_max_side: int = 1280
    resize_min_side: int = 1024
    resize_multiple: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.framing is not None and (len(self.framing) != 2 or max(self.framing) >= 1):
            raise CheckpointError(f"InstantIDConfig: framing cannot be {self.framing!r}")
        free = self.framing_freedom
        if free is not None and (len(free) != 3 or free[0] > free[1]):
            raise CheckpointError(f"InstantIDConfig: framing_freedom cannot be {free!r}")

    @property
    def encoders(self) -> tuple[str, ...]:
        """Encoders whose features an identity must hold."""
        return (self.encoder,)

    def projector_sizes(self) -> dict[str, int]:
        """Keyword arguments of :class:`~idpersona.adapters.instantid.modules.InstantIDProjector`."""
        names = ("embedding_dim", "dim", "depth", "dim_head", "heads", "num_tokens", "output_dim", "ff_mult")
        return {name: getattr(self, name) for name in names}

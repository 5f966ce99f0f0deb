"""What ``diffusion.py`` trains and on what."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

PERIOD = 8
"""Which samples have a person repeats after so many sample indices."""


class DiffusionConfig(BaseModel):
    """What is trained and on what.

    Attributes:
        vae: folder of the trained autoencoder.
        base: train the base (text encoder and UNet); else they stay as ``init_from`` has them.
        identity: share of each batch that is conditioned on a person, in eighths (exact for batches of a
            multiple of 8); 0 trains the base alone.
        text_drop: share of the samples without a person whose caption is empty (for guidance).
        caption_drop, identity_drop, both_drop: shares of the samples with a person that see no caption, a
            zero vector instead of the person, and neither. 5 % each, as in IP-Adapter's training
            (arXiv:2308.06721); InstantID's paper drops nothing, but its inference needs the zero vector.
        min_snr: gamma of ``loss_weight``.
        labeler: folder of the attribute classifier that captions photos without attributes, or null.
        latent_descriptor: folder of the network that reads a face's descriptor from latents, or null.
        likeness: weight of the identity loss that it gives: how far the descriptor of the estimated clean
            latents lies from that of the photo (1 - cosine), for samples with a person.
        drawn: share of each batch, in eighths and at most ``identity``, whose people the model besides draws
            from noise itself, up to a random step at which the identity loss is taken.
        drawn_from: first training step with such drawings; before it they are no faces yet.
        wide: share of samples in a framing from the whole range of poses.
        channels, layers: of the fresh UNet, whose heads are 32 wide; with ``init_from`` unused, as are the
            following.
        text_width, text_layers, vocabulary, prompt_length: of the fresh text encoder.
        tokens: how many tokens tell the UNet of a person.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["diffusion"]
    vae: str
    base: bool = True
    identity: float = Field(0.5, ge=0, le=1, multiple_of=1 / PERIOD)
    text_drop: float = Field(0.12, ge=0, lt=1)
    caption_drop: float = Field(0.05, ge=0, lt=1)
    identity_drop: float = Field(0.05, ge=0, lt=1)
    both_drop: float = Field(0.05, ge=0, lt=1)
    min_snr: float = Field(5.0, gt=0)
    labeler: str | None = None
    latent_descriptor: str | None = None
    likeness: float = Field(0.1, ge=0)
    drawn: float = Field(0.0, ge=0, le=1, multiple_of=1 / PERIOD)
    drawn_from: int = Field(0, ge=0)
    wide: float = Field(0.35, ge=0, le=1)
    channels: tuple[Annotated[int, Field(gt=0, multiple_of=32)], ...] = Field((128, 192, 224), min_length=1)
    layers: int = Field(1, ge=1)
    text_width: int = Field(192, gt=0, multiple_of=32)
    text_layers: int = Field(3, ge=1)
    vocabulary: int = Field(1024, ge=600)
    prompt_length: int = Field(64, ge=8)
    tokens: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _something_to_train(self) -> Self:
        if not self.base and not self.identity:
            raise ValueError("with base false and identity 0 there is nothing to train")
        if self.caption_drop + self.identity_drop + self.both_drop > 1:
            raise ValueError("caption_drop, identity_drop and both_drop are shares: together at most 1")
        if self.drawn > self.identity:
            raise ValueError("drawn cannot exceed identity: it takes its people from there")
        if self.drawn and not self.latent_descriptor:
            raise ValueError("drawn needs latent_descriptor, which judges the drawings")
        return self

"""What the training of a persona (``persona.py``) is told."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from idpersona.training.objectives.disenbooth import DisenBoothConfig
from idpersona.training.objectives.face_reader import DLIB
from idpersona.training.objectives.feedback import FeedbackConfig, same_network

IdentityKind = Literal["none", "portrait", "triplet", "contrast"]


class PersonaConfig(BaseModel):
    """What is trained and on what.

    Attributes:
        base: name, folder or hub id.
        photos: folder or list of photos of one person.
        prompt, class_prompt: of the photos, and of the pictures that preserve the prior.
        size: side of the square pictures; None for what the base was made for.
        crop: ``face`` cuts faces out upright, as mini was trained on; ``middle`` takes the middle.
        rank, targets: of the LoRA, and the layers of the U-Net that it changes.
        class_pictures: that the base draws once, before the first step; 0 for no prior preservation.
        class_steps, class_guidance: that they are drawn with.
        class_folder: where they lie, to be shared with other trainings; None for ``class`` of the output.
        prior: weight of their denoising error.
        identity: the identity loss; ``identity_weight`` is its weight.
        reader: network of the loss: dlib, or the file of an ArcFace network.
        align: see the module's docstring.
        margin: of ``triplet``; 1 as published.
        temperature: of ``contrast``.
        bank: folder of photos of others for ``triplet`` and ``contrast``; None takes the class pictures.
        decay: power of the weight (1 - t / T) of the identity loss at timestep t; 2 as published, 0 weighs
            all alike.
        min_snr: gamma of the denoising error's weight.
        noise_offset: see ``denoise``.
        reward: reward feedback on what ``prompt`` draws; published without an identity loss.
        disenbooth: tells each photo's surroundings apart; published without class pictures. The identity loss
            is then taken of what the prompt alone predicts, which is what draws in the end.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["persona"]
    base: str
    photos: str | tuple[str, ...]
    prompt: str = "a photo of sks person"
    class_prompt: str = "a photo of a person"
    size: int | None = Field(None, ge=8)
    crop: Literal["face", "middle"] = "middle"
    rank: int = Field(4, ge=1)
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    class_pictures: int = Field(200, ge=0)
    class_steps: int = Field(30, ge=1)
    class_guidance: float = Field(5.0, ge=0)
    class_folder: str | None = None
    prior: float = Field(1.0, ge=0)
    identity: IdentityKind = "portrait"
    identity_weight: float = Field(0.1, ge=0)
    reader: str = DLIB
    align: Literal["target", "detect"] = "target"
    margin: float = Field(1.0, ge=0, le=2)
    temperature: float = Field(0.1, gt=0)
    bank: str | None = None
    decay: float = Field(2.0, ge=0)
    min_snr: float = Field(5.0, gt=0)
    noise_offset: float = Field(0.0, ge=0)
    reward: FeedbackConfig | None = None
    disenbooth: DisenBoothConfig | None = None

    @model_validator(mode="after")
    def _rewarded_where_found(self) -> Self:
        if self.reward is not None and self.reward.align == "target":
            raise ValueError("reward.align: a prompt does not say where a face is drawn: set it to detect")
        if (
            self.reward is not None
            and self.identity != "none"
            and (self.reward.stop_on is not None and same_network(self.reward.stop_on, self.reader))
        ):
            raise ValueError(f"reward.stop_on must be another network than the reader, {self.reader}")
        return self

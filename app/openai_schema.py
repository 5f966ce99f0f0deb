"""The interface's requests and answers, typed; what they say is the page at ``/v1/docs``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from idpersona.app.studio import MOST_PICTURES
from idpersona.jobs.limits import GUIDANCE, SCALE, SEED, STEPS, TEXT


def _not_streamed(value: bool) -> bool:
    if value:
        raise ValueError("pictures are not streamed")
    return value


Base64 = Annotated[str, Field(description="A file in base64, or a data URL.", min_length=1)]
Seed = Annotated[int, Field(ge=SEED[0], le=SEED[1])]
Steps = Annotated[int, Field(ge=STEPS[0], le=STEPS[1])]
Guidance = Annotated[float, Field(ge=GUIDANCE[0], le=GUIDANCE[1])]
Scale = Annotated[float, Field(ge=SCALE[0], le=SCALE[1])]
NotStreamed = Annotated[bool, AfterValidator(_not_streamed)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PersonInput(_Strict):
    """One person of several: a photo or an identity file, and where in the picture."""

    photo: Base64 | None = None
    file: Base64 | None = Field(default=None, description="Identity file (safetensors).")
    sample: str | None = Field(default=None, description="Name of a sample photo, as astronaut.")
    region: tuple[int, int, int, int] = Field(
        description="Box in pixels of the picture: x, y, width, height."
    )


class IdentityInput(_Strict):
    """Who shall be in the picture: photos of one person, an identity file, a sample, or several people."""

    photos: list[Base64] = Field(default_factory=list[str], max_length=8)
    file: Base64 | None = Field(
        default=None, description="Identity file (safetensors), as idpersona identify writes it."
    )
    sample: str | None = Field(default=None, description="Name of a sample photo, as astronaut.")
    people: list[PersonInput] = Field(default_factory=list[PersonInput], max_length=8)
    adapter: str | None = Field(default=None, description="Method [default: the first that the model has].")
    scale: Scale | None = Field(default=None, description="Strength of the method.")
    face: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Which face in the photos, 0 the largest."
    )
    pose: Base64 | None = Field(default=None, description="Photo whose face gives position and size.")
    consent: bool = Field(
        default=False, description="The people in the photos agreed; written into the picture."
    )


class GenerationRequest(_Strict):
    """As OpenAI's, with ``identity`` and what a diffusion model takes besides."""

    prompt: str = Field(min_length=1, max_length=TEXT)
    model: str | None = Field(default=None, description="A model of GET /v1/models [default: the first].")
    n: Annotated[int, Field(ge=1, le=MOST_PICTURES)] | None = 1
    size: str | None = Field(default=None, description="auto, or WIDTHxHEIGHT in multiples of 8.")
    response_format: Literal["b64_json"] | None = Field(
        default=None, description="Pictures are not kept on the server, so there are no addresses of them."
    )
    output_format: Literal["png"] | None = Field(default=None, description="PNG, which carries the settings.")
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    quality: Literal["auto", "standard"] | None = None
    stream: NotStreamed | None = None
    user: str | None = Field(default=None, max_length=400, description="Taken, and not used.")
    identity: IdentityInput | None = None
    negative_prompt: str | None = Field(default=None, max_length=TEXT)
    weighted: bool = Field(default=False, description="Prompts of any length, with weights as (smile:1.3).")
    seed: Seed | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None


class EditIdentity(_Strict):
    """How the photo is changed, and what keeps its person."""

    source: str | None = Field(default=None, max_length=TEXT, description="What the photo shows.")
    method: str | None = Field(default=None, description="Inversion [default: direct].")
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    words: list[str] = Field(
        default_factory=list[str], max_length=20, description="Change only where these are."
    )
    keep_background: bool = False
    adapter: str | None = Field(default=None, description="Method that keeps the person besides.")
    scale: Scale | None = None
    face: Annotated[int, Field(ge=0)] | None = None
    consent: bool = False


class EditRequestBody(_Strict):
    """The fields of an edit beside its image."""

    prompt: str = Field(min_length=1, max_length=TEXT)
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=1)] | None = None
    size: Literal["auto"] | None = None
    response_format: Literal["b64_json"] | None = None
    output_format: Literal["png"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    quality: Literal["auto", "standard"] | None = None
    stream: NotStreamed | None = None
    user: str | None = Field(default=None, max_length=400)
    identity: EditIdentity = EditIdentity()
    steps: Steps | None = None
    guidance: Guidance | None = None


class PictureIdentity(BaseModel):
    """Whose picture it is, as its settings say."""

    photos_sha256: list[str] = Field(description="Of the photos that were read.")
    features_sha256: str | None = Field(description="Of what was read of them.")
    consent: bool | None = None
    similarity: float | None = Field(
        description="Of the largest face in the picture to the person; 1 is equal. None: no face, or nobody "
        "measured."
    )
    similarity_encoder: str | None = Field(description="Who measured it; None where nobody did.")


class PictureData(BaseModel):
    """One picture."""

    b64_json: str = Field(description="A PNG with its settings inside.")
    identity: PictureIdentity
    settings: dict[str, Any] = Field(description="Everything that made it.")


class PicturesAnswer(BaseModel):
    """The pictures, and what the user should know."""

    created: int = Field(description="Seconds since 1970.")
    data: list[PictureData]
    notes: list[str] = Field(default_factory=list[str])


class ErrorDetail(BaseModel):
    """What is wrong, and where."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """OpenAI's form of an error."""

    error: ErrorDetail


class ModelEntry(BaseModel):
    """A model and the methods that keep an identity on it."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "idpersona"
    methods: list[str]


class ModelsAnswer(BaseModel):
    """All models of this studio."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]

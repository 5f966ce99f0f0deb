"""Recipes: one YAML file describes a whole run; unknown keys are refused with the nearest valid name."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from idpersona.encoders.reading import DEFAULT_ENCODER
from idpersona.errors import BadInput, first_line

T = TypeVar("T", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptimiserConfig(_Strict):
    """AdamW (arXiv:1711.05101) with linear warm-up, then constant and a cosine fall over the last part.

    ``muon`` names the parts of the model whose weight matrices are moved by Muon instead, see
    ``optimisers.py``.
    """

    lr: Annotated[float, Field(gt=0)] = 3e-4
    betas: tuple[float, float] = (0.9, 0.99)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    warmup_steps: Annotated[int, Field(ge=0)] = 100
    cooldown: Annotated[float, Field(ge=0, le=1)] = 0.2
    clip: Annotated[float, Field(gt=0)] = 1.0
    lr_factors: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Part of the model -> factor on its learning rate, for example ``{text_encoder: 0.25}``. A part is the
    beginning of a parameter's name; of several the longest counts.
    """
    muon: tuple[str, ...] = ()
    """Parts of the model, for example ``[unet, identitynet.down_blocks]``."""
    eight_bit: bool = False
    """AdamW's moments in 8 bits (arXiv:2110.02861), a quarter of their memory: needs bitsandbytes."""


class LoopConfig(_Strict):
    """How long and how often. ``batch_size`` is the global batch, whatever the number of processes.

    ``accumulate`` splits each process's share of it into so many parts, whose gradients are added up: less
    memory, the same step up to rounding. ``checkpointing`` computes the activations inside the large networks
    a second time instead of keeping them: less memory, the same gradients (arXiv:1604.06174). ``compile``
    names a backend of ``torch.compile``, as ``inductor``, for the networks that are trained. ``trackers`` are
    accelerate's, as ``[tensorboard]``; their files lie in ``logs`` of the output.
    """

    steps: Annotated[int, Field(gt=0)]
    batch_size: Annotated[int, Field(gt=0)]
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    precision: Literal["no", "bf16", "fp16"] = "bf16"
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    log_every: Annotated[int, Field(gt=0)] = 20
    save_every: Annotated[int, Field(gt=0)] = 200
    threads: Annotated[int, Field(ge=0)] = 0
    accumulate: Annotated[int, Field(gt=0)] = 1
    checkpointing: bool = False
    compile: str | None = None
    trackers: tuple[str, ...] = ("tensorboard",)


class SamplesConfig(_Strict):
    """Pictures that the averaged weights draw before the first step, every so often, and at the end.

    They are sheets ``samples/step-000100.png`` of the output, always of the same prompts and seeds. A row is
    a person (or the model by itself) and a seed, a column is a prompt; the photo stands first. How alike the
    drawn faces are to the photo stands in ``samples/scores.csv``, line by line, and in the log on average.

    Attributes:
        every: steps from one sheet to the next.
        prompts: of the columns.
        photos: folder or list of photos (paths, ``sample:NAME``), one for each person; take people whom the
            training does not see. An adapter draws each of them. Where a persona is trained, they are other
            people, whom its pictures should not look like; models that know nobody take none.
        seeds: of the start noise; each gives a row of its own.
        negative: the negative prompt.
        steps, guidance: of drawing.
        judge: by which faces are compared: a face encoder that tells people apart, or ``mini-judge``. By an
            encoder that conditions what is trained, or that an identity loss imitates (mini's adapters: both
            are dlib's), the score is optimistic.
    """

    every: Annotated[int, Field(gt=0)]
    prompts: Annotated[tuple[str, ...], Field(min_length=1)]
    photos: str | tuple[str, ...] = ()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    negative: str = ""
    steps: Annotated[int, Field(gt=0)] = 25
    guidance: Annotated[float, Field(ge=0)] = 5.0
    judge: str = DEFAULT_ENCODER


class Recipe(_Strict):
    """One run. ``objective`` is the table of the objective named by its ``kind`` key; without ``samples``
    nothing is drawn on the way."""

    name: str
    objective: dict[str, Any]
    optimiser: OptimiserConfig = OptimiserConfig()
    loop: LoopConfig
    output: str
    init_from: str | None = None
    samples: SamplesConfig | None = None

    @model_validator(mode="after")
    def _muon_in_fp16(self) -> Self:
        if self.optimiser.muon and self.loop.precision == "fp16":
            raise ValueError(
                "optimiser.muon knows no loss scaling, as fp16 needs: use loop.precision bf16 or no"
            )
        return self


def load_recipe(path: str | Path) -> Recipe:
    """Read and validate a recipe. Raises BadInput naming the file and the field."""
    path = Path(path)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in builtin_recipes()))
        raise BadInput(f"no recipe at {path}: give a YAML file, or one of the built-in names {known}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} is no recipe that can be read: {first_line(error)}") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path} is not valid YAML: {first_line(error)}") from error
    if not isinstance(raw, dict):
        raise BadInput(
            f"{path} holds no recipe: expected a mapping with the keys {', '.join(Recipe.model_fields)}"
        )
    return parse(Recipe, raw, str(path))


def parse(model: type[T], raw: dict[str, Any], where: str) -> T:
    """Validate ``raw`` against ``model``; the first problem becomes one clear line."""
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        # A misspelt key first: what is missing is most often what it was meant to be.
        found = error.errors()
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        field = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = _fields_at(model, first["loc"][:-1])
            near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise BadInput(f"{where}: unknown key {field}: {hint}") from error
        value = first.get("input")
        given = "" if first["type"] == "missing" else f" (got {value!r})"
        raise BadInput(f"{where}: {field}: {first['msg'].lower()}{given}") from error


def builtin_recipes() -> list[Path]:
    """The recipes that come with the package."""
    return sorted((Path(__file__).parent / "recipes").glob("*.yaml"))


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    current: Any = model
    for part in location:
        kind = current.model_fields[part].annotation
        # Of a table that may be left out, what it is where it is there.
        current = next((one for one in get_args(kind) if hasattr(one, "model_fields")), kind)
    return list(current.model_fields)

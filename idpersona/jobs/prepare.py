"""Everything about a picture that can be decided or refused before a diffusion model is loaded."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idpersona.adapters import METHODS, adapter_class, check_options, is_place
from idpersona.errors import BadInput
from idpersona.hashing import folder_fingerprint
from idpersona.identity import Identity
from idpersona.jobs.cast import Cast, read_cast
from idpersona.jobs.listener import Listener
from idpersona.jobs.request import Request, Scaled, Variation
from idpersona.jobs.sources import Sources
from idpersona.jobs.weights import (
    adapter_weight,
    adapters_reading,
    check_base,
    needed_weights,
    reading_weights,
)
from idpersona.options import AdapterOption, OptionValue
from idpersona.registry import WEIGHTS, get_weight, locate, require_commercial
from idpersona.safety import load_people
from idpersona.safety import require_consent as check_consent
from idpersona.safety.people import People

WEIGHTLESS = tuple(name for name, method in METHODS.items() if method.weightless)
FALLBACK = {"steps": 30, "guidance": 5.0}


@dataclass(frozen=True)
class AdapterUse:
    """An adapter by name, its strength, and its own options."""

    name: str
    scale: float
    options: dict[str, OptionValue]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A request with every decision made that needs no model.

    Attributes:
        adapters: in the order in which they are attached.
        loras: (file, weight).
        seeds: one for each picture.
        variations: for each picture the other noises (seed, part of it) that are mixed in, in order.
        recorded: the part of the settings that is known already.
    """

    cast: Cast
    prompt: str
    negative: str | None
    weighted: bool
    base: str
    adapters: tuple[AdapterUse, ...]
    loras: tuple[tuple[Path, float], ...]
    steps: int
    guidance: float
    size: tuple[int, int] | None
    seeds: tuple[int, ...]
    variations: tuple[Variation, ...]
    pose: Identity | None
    device: str | None
    dtype: str | None
    safety_checker: bool
    people: People
    recorded: dict[str, Any] = field(default_factory=dict)


def prepare(
    request: Request,
    count: int,
    sources: Sources,
    listener: Listener,
    *,
    commercial: bool = False,
    require_consent: bool = False,
) -> Job:
    """Check names, licences, files, consent and the people registry, and read the identity.

    Args:
        request: complete.
        count: number of pictures; their seeds follow each other.
        sources: how files are recorded in the pictures.
        listener: is told what is doubtful.
        commercial: refuse non-commercial weights.
        require_consent: refuse identities without the consent flag.

    Raises:
        IdPersonaError: whatever is refused, in one line.
    """
    base = request.base or "mini"
    check_base(base)
    wanted = request.adapters or (("instantid", None),)
    weights = [adapter_weight(name, base) for name, _ in wanted if name not in WEIGHTLESS]
    adapters = adapter_uses(wanted, request.options, request.scale)
    names = [adapter.name for adapter in adapters]
    reading = adapters_reading(names, base)
    needed = needed_weights(base, names)
    if commercial:
        masks = list(request.masks or (reading.mask,)) if reading.subject == "object" else []
        photos = bool(request.photos or request.persons)
        read = reading_weights(reading.encoders, masks) if photos else []
        require_commercial([*needed, *read])
        if request.loras:
            raise BadInput("--commercial: the licences of LoRA files are not known to the registry")
    for weight in (WEIGHTS.get(base), *weights):
        if weight is not None:
            locate(weight.name)
    loras = tuple((_lora(text), 1.0 if weight is None else weight) for text, weight in request.loras)
    people = load_people()
    cast = read_cast(request, reading, names, people)
    if require_consent:
        for member in cast.members:
            check_consent(member.identity, member.told)
    for warning in cast.warnings:
        listener.note(warning)
    made_with = {"weights": weights_record(needed), "versions": versions()}
    _note_change(cast, request, made_with, listener)
    defaults = {**FALLBACK, **(WEIGHTS[base].defaults if base in WEIGHTS else {})}
    first = secrets.randbelow(2**31) if request.seed is None else request.seed
    return Job(
        cast=cast,
        prompt=request.prompt or "",
        negative=request.negative,
        weighted=bool(request.weighted),
        base=base,
        adapters=adapters,
        loras=loras,
        steps=int(defaults["steps"] if request.steps is None else request.steps),
        guidance=float(defaults["guidance"] if request.guidance is None else request.guidance),
        size=request.size,
        seeds=tuple(_following(first, 0 if request.vary else i) for i in range(count)),
        variations=tuple(_varied(request.vary, i) for i in range(count)),
        pose=_pose(request.pose, reading.encoders, listener),
        device=request.device,
        dtype=request.dtype,
        safety_checker=request.safety_checker is not False,
        people=people,
        recorded={
            **_record(request, cast, loras, sources),
            "folders": sources.describe_folders([base, *names]),
            **made_with,
        },
    )


def _varied(vary: Variation, number: int) -> Variation:
    """Of several variations of a picture each has a last noise of its own."""
    return (*vary[:-1], *((_following(seed, number), amount) for seed, amount in vary[-1:]))


def _following(seed: int, number: int) -> int:
    return (seed + number) % 2**63


def adapter_uses(
    wanted: Sequence[Scaled],
    given_options: Sequence[AdapterOption],
    scale_of_all: float | None,
    usual: float = 1.0,
) -> tuple[AdapterUse, ...]:
    """The adapters with their strengths (``usual`` where none is given) and options.

    Raises:
        BadInput: one is given twice, or an option that none of them takes.
    """
    names = [name for name, _ in wanted]
    if len(set(names)) != len(names):
        raise BadInput(f"--adapter '{max(names, key=names.count)}' is given twice")
    options: dict[str, dict[str, OptionValue]] = {name: {} for name in names}
    for given in given_options:
        if given.adapter and given.adapter not in names:
            raise BadInput(f"--set {given.adapter}.{given.name}: the adapters here are {', '.join(names)}")
        if not given.adapter and len(names) > 1:
            raise BadInput(f"--set {given.name}: say of which adapter, as {names[0]}.{given.name}=…")
        own = options[given.adapter or names[0]]
        if given.name in own:
            raise BadInput(f"--set {given.name} is given twice")
        own[given.name] = given.value
    for name, values in options.items():
        if values or name in WEIGHTLESS:
            check_options(name, values)

    def strength(name: str, scale: float | None) -> float:
        if scale is not None or scale_of_all is not None:
            return float(scale_of_all if scale is None else scale)  # type: ignore[arg-type]
        return adapter_class(name).default_scale if name in WEIGHTLESS else usual

    return tuple(AdapterUse(name, strength(name, scale), options[name]) for name, scale in wanted)


def _lora(text: str) -> Path:
    path = Path(text).expanduser()
    if path.suffix != ".safetensors":
        raise BadInput(f"--lora takes .safetensors files, got {text}")
    if not path.is_file():
        raise BadInput(f"no such LoRA file: {path}")
    return path


def _pose(photo: str | None, encoders: Sequence[str], listener: Listener) -> Identity | None:
    if photo is None:
        return None
    from idpersona.encoders import encoder_names, read_identity

    eyes = [encoder for encoder in encoders if encoder in encoder_names("face")]
    if not eyes:
        raise BadInput("--pose needs an adapter that reads faces")
    pose = read_identity([photo], eyes[0])
    for warning in pose.warnings:
        listener.note(f"--pose: {warning}")
    return pose


def _note_change(
    cast: Cast, request: Request, now: Mapping[str, Mapping[str, str]], listener: Listener
) -> None:
    """Say what is not as it was when the picture was made that is to be repeated."""
    changed = [
        name
        for names in now.values()
        for name, value in names.items()
        if (request.made_with or {}).get(name, value) != value
    ]
    if request.face_features and request.face_features != cast.sha256:
        changed.append("what is read of the identity")
    if changed:
        listener.note(
            f"not as when the picture was made: {', '.join(changed)}; it may not be repeated exactly"
        )


def _record(
    request: Request, cast: Cast, loras: Sequence[tuple[Path, float]], sources: Sources
) -> dict[str, Any]:
    return {
        "prompt": request.prompt,
        "negative": request.negative or "",
        "weighted": bool(request.weighted),
        "identity": cast.record(request, sources),
        "lora": [{**sources.describe(str(file)), "weight": weight} for file, weight in loras],
        "pose": sources.describe(request.pose) if request.pose else None,
    }


def weights_record(names: Sequence[str]) -> dict[str, str]:
    """One digest for each set of weights: a pinned one's of its files' hashes, a folder's its fingerprint."""
    record = {}
    for name in names:
        if name not in WEIGHTS and is_place(name):
            record[name] = folder_fingerprint(Path(name))
        elif name in WEIGHTS and all(sha for sha, _ in get_weight(name).files.values()):
            pins = sorted(f"{path} {sha}" for path, (sha, _) in get_weight(name).files.items())
            record[name] = hashlib.sha256("\n".join(pins).encode()).hexdigest()
    return record


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    from importlib.metadata import version

    return {name: version(name) for name in ("idpersona", "torch", "diffusers", "transformers")}

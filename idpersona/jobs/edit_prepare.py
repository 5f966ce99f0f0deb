"""Everything about an edit that can be decided or refused before a diffusion model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from idpersona.errors import BadInput, ConsentRequired
from idpersona.identity import Identity
from idpersona.images import open_photo_full
from idpersona.jobs.cast import Cast, read_cast
from idpersona.jobs.edit_request import EditRequest
from idpersona.jobs.listener import Listener
from idpersona.jobs.prepare import WEIGHTLESS, AdapterUse, adapter_uses, versions, weights_record
from idpersona.jobs.request import Request
from idpersona.jobs.sources import Sources
from idpersona.jobs.weights import adapters_reading, check_base, needed_weights, reading_weights
from idpersona.options import AdapterOption, OptionValue
from idpersona.pipelines.editing.spec import ADAPTER_SCALE, Control
from idpersona.pipelines.inversion.methods import METHODS, get_method, method_of
from idpersona.pipelines.inversion.record import Inversion, InversionError
from idpersona.registry import WEIGHTS, locate, require_commercial
from idpersona.safety import check_photo, load_people, read_allowed
from idpersona.safety import require_consent as check_consent
from idpersona.safety.people import People

STEPS = 50


@dataclass(frozen=True, kw_only=True)
class EditJob:
    """A request with every decision made that needs no model.

    Attributes:
        request: as typed.
        picture: the photo.
        face: of the photo, with keypoints in its pixels; None where no face is needed.
        record: the inversion that was given.
        method, method_options: of a new one.
        control: what the edit takes over; its blend is chosen when the source prompt is known. None where the
            inversion takes none.
        steps, guidance: of the inversion; ``guidance`` of the edit where it may differ.
        cast: who the edit shall be; None without adapters.
        recorded: the part of the settings that is known already.
    """

    request: EditRequest
    picture: Any
    face: Identity | None
    record: Inversion | None
    method: str
    method_options: Mapping[str, OptionValue]
    control: Control | None
    steps: int
    guidance: float
    adapters: tuple[AdapterUse, ...]
    cast: Cast | None
    people: People
    recorded: dict[str, Any]


def prepare(
    request: EditRequest,
    sources: Sources,
    listener: Listener,
    *,
    commercial: bool = False,
    require_consent: bool = False,
) -> EditJob:
    """Check names, licences, files, consent and the people registry, and read photo and identity.

    The arguments are those of :func:`idpersona.jobs.prepare.prepare`.

    Raises:
        IdPersonaError: whatever is refused, in one line.
    """
    check_base(request.base)
    record = None if request.inversion is None else Inversion.load(request.inversion)
    if record is not None:
        if record.photos != 1:
            raise BadInput(f"{request.inversion} holds {record.photos} photos, and an edit is of one")
        method_of(record)
        record.check(prompts=(request.source,) if request.source else None, steps=request.steps)
    method = record.method if record is not None else request.method or "direct"
    wanted = request.adapters or ((("instantid", None),) if request.identity else ())
    names = [name for name, _ in wanted]
    if record is not None:
        _check_attached(record, names)
    for_method, for_adapters = _shared_out(request.options, method, names)
    if for_method and record is not None:
        raise BadInput(f"--set {next(iter(for_method))}: the inversion that was given is made already")
    get_method(method, **for_method)  # refuses wrong names and values before anything is loaded
    kind = METHODS[method]
    if request.negative is not None and not kind.free_negative:
        free = ", ".join(name for name, one in METHODS.items() if one.free_negative)
        raise BadInput(f"--negative: {method} has its own; leave it out, or take one of {free}")
    if wanted and not kind.takes_control:
        raise BadInput(f"--adapter: {method} draws without adapters; take another --method, as direct")
    if request.source is None and record is None and request.base != "mini":
        raise BadInput("--source: say what the photo shows (only for mini a classifier can tell)")
    adapters = adapter_uses(wanted, for_adapters, request.scale, usual=ADAPTER_SCALE)
    needed = needed_weights(request.base, names)
    reads = [] if request.base != "mini" or request.source or record else ["labeler"]
    if commercial:
        eyes = reading_weights(["dlib"], []) if _face_needed(request) else []
        require_commercial([*needed, *reads, *eyes])
    for name in (request.base, *reads):
        if name in WEIGHTS:
            locate(name)
    photo = open_photo_full(request.photo)
    for text in photo.notes:
        listener.note(f"{photo.name} {text}")
    people = load_people()
    if people.guards:
        check_photo(photo.image, people, request.photo)
    if require_consent and not request.consent:
        raise ConsentRequired(
            f"--require-consent: {request.photo} is of a person; with the person's agreement give --consent"
        )
    face = _face(request, people, listener) if _face_needed(request) else None
    made_with = {"weights": weights_record([*needed, *reads]), "versions": versions()}
    cast = _cast(request, names, people) if names else None
    if require_consent and request.identity and cast is not None:
        check_consent(cast.members[0].identity, request.identity)
    usual = WEIGHTS[request.base].defaults if request.base in WEIGHTS else {}
    return EditJob(
        request=request,
        picture=photo.image,
        face=face,
        record=record,
        method=method,
        method_options=for_method,
        control=_control(request, method, usual),
        steps=record.steps if record is not None else int(request.steps or usual.get("edit_steps", STEPS)),
        guidance=_guidance(request, record, method, usual),
        adapters=adapters,
        cast=cast,
        people=people,
        recorded={
            "edited": sources.describe(request.photo),
            "photo_consent": request.consent,
            "face": request.face,
            "inversion": sources.describe(str(request.inversion)) if record else None,
            "prompt": request.prompt,
            "identity_of_edit": None if cast is None else cast.record(_who(request), sources),
            "folders": sources.describe_folders([request.base, *names]),
            **made_with,
        },
    )


def _check_attached(record: Inversion, adapters: list[str]) -> None:
    told = any(name not in WEIGHTLESS for name in adapters)
    if record.attached and not told:
        raise InversionError("--inversion: it was made with an adapter: give --adapter, or invert anew")
    if told and not record.attached:
        raise InversionError(
            "--inversion: it was made without an adapter, and an edit with one would stray from the photo: "
            "invert anew, with the adapter"
        )


def _guidance(
    request: EditRequest, record: Inversion | None, method: str, usual: Mapping[str, float]
) -> float:
    if request.guidance is not None:
        return request.guidance
    if record is not None:
        return record.guidance
    return float(usual.get("edit_guidance", METHODS[method].guidance))


def _shared_out(
    options: tuple[AdapterOption, ...], method: str, adapters: list[str]
) -> tuple[dict[str, OptionValue], tuple[AdapterOption, ...]]:
    """Options of the inversion, and those of the adapters."""
    for option in options:
        if option.adapter in METHODS and option.adapter != method:
            raise BadInput(f"--set {option.adapter}.{option.name}: the inversion here is {method}")
    mine = [o for o in options if o.adapter == method or (not o.adapter and not adapters)]
    return {o.name: o.value for o in mine}, tuple(o for o in options if o not in mine)


def _face_needed(request: EditRequest) -> bool:
    return (
        request.keep_background
        or request.crop == "face"
        or (request.crop is None and request.base == "mini")
        or bool(request.adapters or request.identity)
    )


def _face(request: EditRequest, people: People, listener: Listener) -> Identity:
    """The face of the photo, for its place; the registry's encoders look at this very face, too."""
    found = read_allowed([request.photo], "dlib", people, face=request.face)
    for warning in found.warnings:
        listener.note(warning)
    return found


def _who(request: EditRequest) -> Request:
    """The part of ``generate``'s request that says who it is."""
    if request.identity:
        return Request(identity=request.identity)
    return Request(photos=(request.photo,), face=request.face, consent=request.consent)


def _cast(request: EditRequest, adapters: list[str], people: People) -> Cast:
    reading = adapters_reading(adapters, request.base)
    if reading.subject != "face":
        raise BadInput(
            f"an edit keeps a face, and {', '.join(adapters)} keeps objects: give instantid or wplus"
        )
    return read_cast(_who(request), reading, adapters, people)


def _control(request: EditRequest, method: str, usual: Mapping[str, float]) -> Control | None:
    given: dict[str, Any] = {
        "cross": request.cross_steps,
        "self_attention": request.self_steps,
        "strength": request.strength,
    }
    if not METHODS[method].takes_control:
        taking = {**given, "words": request.words, "emphasis": request.emphasis, "grid": request.grid}
        taking["kind"] = None if request.kind == "refine" else request.kind
        if wrong := [name for name, value in taking.items() if value not in (None, (), {}, False)]:
            raise BadInput(f"{method} takes no attention of the photo: leave out {', '.join(wrong)}")
        return None
    given["strength"] = usual.get("edit_strength") if request.strength is None else request.strength
    chosen = {name: value for name, value in given.items() if value is not None}
    return Control(kind=request.kind, reweight=dict(request.emphasis), **chosen)  # type: ignore[arg-type]

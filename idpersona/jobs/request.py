"""What was asked of ``generate``: as typed, and filled up from the picture that is to be repeated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from idpersona.errors import BadInput
from idpersona.jobs import limits
from idpersona.jobs.listener import Listener
from idpersona.jobs.sources import Sources
from idpersona.options import AdapterOption

Scaled = tuple[str, float | None]
Variation = tuple[tuple[int, float], ...]
"""Seeds of other noise, and how much of each is mixed in, 0..1, one after the other."""


MIXES = 16


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides a picture. ``None`` and empty tuples are not decided yet.

    Attributes:
        identity: identity file. photos: photos to read instead. face: which face of them.
        persons: several people in one picture, each ``FILE@REGION``.
        masks: of an object in the photos: a way to find it for all, or files, one for each.
        consent: whether the people in the photos agreed.
        prompt, negative: texts.
        weighted: whether they are weighted text, of any length.
        adapters, loras: (name or file, own scale or None).
        base: registry name, folder or hub id.
        scale: of adapters without their own.
        options: the adapters' own.
        steps, guidance, size, seed: of the diffusion.
        vary: other noise that is mixed into the seed's: a picture near another, or near such a one.
        pose: photo whose face gives the key points.
        device, dtype: where and how it is computed.
        safety_checker: whether the base's own checker stays on.
        face_features: sha256 of the features that the repeated picture was made with.
        made_with: name -> digest or version of the weights and packages that it was made with.
    """

    identity: str | None = None
    photos: tuple[str, ...] = ()
    face: int | None = None
    persons: tuple[str, ...] = ()
    masks: tuple[str, ...] = ()
    consent: bool | None = None
    prompt: str | None = None
    negative: str | None = None
    weighted: bool | None = None
    adapters: tuple[Scaled, ...] = ()
    base: str | None = None
    loras: tuple[Scaled, ...] = ()
    scale: float | None = None
    options: tuple[AdapterOption, ...] = ()
    steps: int | None = None
    guidance: float | None = None
    size: tuple[int, int] | None = None
    seed: int | None = None
    vary: Variation = ()
    pose: str | None = None
    device: str | None = None
    dtype: str | None = None
    safety_checker: bool | None = None
    face_features: str | None = None
    made_with: dict[str, str] | None = None

    def checked(self) -> Request:
        """Itself, when every decided number lies within its range.

        Raises:
            BadInput: naming the option, its limits and the value.
        """
        limits.strengths(self.scale, self.steps, self.guidance)
        limits.own_scales(self.adapters, self.loras)
        if self.seed is not None:
            limits.whole("--seed", self.seed, limits.SEED)
        for seed, amount in self.vary:
            limits.whole("the seed of --vary", seed, limits.SEED)
            limits.number("the amount of --vary", amount, (0.0, 1.0))
        if len(self.vary) > MIXES:
            raise BadInput(f"--vary mixes up to {MIXES} noises, got {len(self.vary)}")
        if self.size is not None:
            limits.size("x".join(map(str, self.size)))
        if self.dtype is not None:
            limits.one_of("dtype", self.dtype, ("fp32", "fp16", "bf16"))
        for option, text in (("--prompt", self.prompt), ("--negative", self.negative)):
            if text is not None:
                limits.text(option, text)
        for option, word in (
            *(("--photo", photo) for photo in self.photos),
            *(("--person", person) for person in self.persons),
            *(("--mask", mask) for mask in self.masks),
            *(("--adapter", name) for name, _ in self.adapters),
            *(("--lora", name) for name, _ in self.loras),
            ("--identity", self.identity),
            ("--base", self.base),
            ("--pose", self.pose),
            ("--device", self.device),
        ):
            if word is not None and not word.strip():
                raise BadInput(f"{option} is empty")
        limits.device(self.device)
        if sum(map(bool, (self.identity, self.photos, self.persons))) > 1:
            raise BadInput("give one of --identity, --photo and --person")
        return self

    def complete(self) -> Request:
        """Itself, when nothing is left open that a picture needs, and nothing contradicts the rest.

        Raises:
            BadInput: saying what is missing, or which options do not go together.
        """
        if self.prompt is None:
            raise BadInput("give --prompt, or --from PNG to repeat a picture")
        if self.vary and self.seed is None:
            raise BadInput("--vary changes the picture of a seed: give --seed, or --from PNG")
        if not (self.identity or self.photos or self.persons):
            raise BadInput("give --identity FILE, --photo PHOTO or --person FILE@REGION: whose picture?")
        if self.masks and not self.photos:
            raise BadInput("--mask is for --photo; an identity file holds the subject alone already")
        if self.identity and self.consent:
            raise BadInput("--consent is for --photo; an identity file carries its own flag")
        if self.persons and self.face is not None:
            raise BadInput("--face is for --photo: read an identity file for each person")
        if self.persons and self.consent and all(".safetensors@" in person for person in self.persons):
            raise BadInput("--consent is for photos; identity files carry their own flag")
        if self.identity and self.face is not None:
            raise BadInput("--face chooses a face in photos; an identity file holds one already")
        return self

    def over(self, recorded: Request) -> Request:
        """This request, with what it leaves open taken from ``recorded``."""
        values = {field.name: getattr(recorded, field.name) for field in dataclasses.fields(self)}
        if self.identity or self.photos or self.persons:
            values |= {"identity": None, "photos": (), "face": None, "face_features": None, "consent": None}
            values |= {"persons": (), "masks": ()}
        if self.scale is not None:
            # Recorded adapters carry their own scale, which would win over the one asked for now.
            values["adapters"] = tuple((name, None) for name, _ in recorded.adapters)
        for field in dataclasses.fields(self):
            mine = getattr(self, field.name)
            if mine is not None and mine != ():
                values[field.name] = mine
        values["options"] = self._options_over(recorded, [name for name, _ in values["adapters"]])
        return Request(**values)

    def _options_over(self, recorded: Request, adapters: list[str]) -> tuple[AdapterOption, ...]:
        """Recorded options of the adapters that stay, each replaced by one of the same name given now."""
        kept = {(o.adapter, o.name): o for o in recorded.options if o.adapter in adapters}
        for option in self.options:
            of = option.adapter or (adapters[0] if len(adapters) == 1 else "")
            kept[of, option.name] = dataclasses.replace(option, adapter=of)
        return tuple(kept.values())


def recorded_request(
    settings: dict[str, Any], sources: Sources, asked: Request, listener: Listener
) -> Request:
    """The request behind a picture, from its settings.

    Its sources are looked for and checked, but for those that ``asked`` replaces.

    Args:
        settings: of the picture, as :func:`~idpersona.provenance.read_settings` gives them.
        sources: where they are looked for.
        asked: what is to be other than in the picture.
        listener: is told what has changed.

    Raises:
        BadInput: the settings are damaged, or a source is not here any more.
    """
    png = sources.picture
    if not settings.keys() & {"identity", "adapters"}:
        raise BadInput(f"{png} was not made by generate: it records no identity and no adapter to repeat")
    try:
        if settings.get("safety_checker") is False and asked.safety_checker is None:
            listener.note(
                "made without the base's safety checker, which is on now: repeat with --no-safety-checker"
            )
        source = settings["identity"]
        replaced = bool(asked.identity or asked.photos or asked.persons)
        paths = [] if replaced else [sources.find(entry) for entry in source["sources"]]
        regions = [] if replaced else [_place(entry, sources) for entry in source.get("regions", ())]
        pose = None if asked.pose else settings.get("pose")
        loras = () if asked.loras else settings.get("lora", ())
        if not settings["adapters"]:
            raise KeyError("adapters")
        adapters = () if asked.adapters else settings["adapters"]
        folders = [entry["name"] for entry in adapters] + ([] if asked.base else [settings["base"]])
        found: dict[str, str] = {name: sources.find_folder(name, settings) for name in folders}
        from_photos = source["from"] == "photos"
        made_with: dict[str, str] = {**settings.get("weights", {}), **settings.get("versions", {})}
        request = Request(
            identity=paths[0] if paths and source["from"] == "file" else None,
            photos=tuple(paths) if from_photos else (),
            persons=tuple(f"{path}@{region}" for path, region in zip(paths, regions, strict=False)),
            masks=() if replaced else tuple(_place(entry, sources) for entry in source.get("masks", ())),
            face=source.get("face"),
            consent=(source["consent"] if from_photos else source.get("photo_consent")) if paths else None,
            prompt=settings["prompt"],
            negative=settings.get("negative") or None,
            weighted=settings.get("weighted", False),
            adapters=tuple((found[entry["name"]], float(entry["scale"])) for entry in adapters),
            options=tuple(
                AdapterOption(str(found.get(entry["name"]) or entry["name"]), name, value)
                for entry in settings["adapters"]
                for name, value in entry.get("options", {}).items()
            ),
            base=asked.base or found[settings["base"]],
            loras=tuple((sources.find(entry), float(entry["weight"])) for entry in loras),
            steps=settings["steps"],
            guidance=float(settings["guidance"]),
            size=(settings["width"], settings["height"]),
            seed=settings["seed"],
            vary=_variation(settings.get("vary")),
            pose=sources.find(pose) if pose else None,
            device=settings["device"],
            dtype=settings["dtype"],
            face_features=source.get("features_sha256"),
            made_with={found.get(name, name): value for name, value in made_with.items()},
        )
        _check_types(request)
        return request.checked()
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"the settings in {png} are damaged: {type(error).__name__} {error}") from error


def _place(entry: Any, sources: Sources) -> str:
    """A recorded region or mask: words as they are, a file where it lies now."""
    return sources.find(entry) if isinstance(entry, dict) else str(entry)


def _variation(entries: Any) -> Variation:
    return tuple((_integer(entry["seed"]), float(entry["amount"])) for entry in entries or ())


def _integer(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("vary")
    return value


def _check_types(request: Request) -> None:
    for name, kinds in {
        "prompt": (str,),
        "negative": (str, type(None)),
        "weighted": (bool,),
        "base": (str,),
        "steps": (int,),
        "seed": (int,),
        "device": (str,),
        "dtype": (str,),
        "face": (int, type(None)),
        "consent": (bool, type(None)),
    }.items():
        if type(getattr(request, name)) not in kinds:
            raise TypeError(name)
    if not all(type(side) is int for side in request.size or ()):
        raise TypeError("size")
    if not all(isinstance(name, str) for name, _ in request.adapters):
        raise TypeError("adapters")

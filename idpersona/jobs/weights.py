"""Which registered weights an adapter on a base stands for; without loading anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from idpersona.adapters import METHODS, Subject, adapter_class, is_place
from idpersona.encoders import encoder_subject, encoder_weights
from idpersona.errors import BadInput, MissingWeights, UnknownName
from idpersona.registry import WEIGHTS, Weight, locate, weight_names


def check_base(base: str) -> None:
    """Refuse what is neither a base's name, nor a folder, nor the form of a hub id.

    Raises:
        UnknownName, MissingWeights: as said.
    """
    known = weight_names("base")
    if base in known or Path(base).is_dir():
        return
    if base.startswith(("/", ".", "~")) or base.count("/") > 1:
        raise MissingWeights(f"no folder {base}: a base is {', '.join(known)}, a folder, or a hub id")
    if "/" not in base:
        raise UnknownName("base", base, known)


def adapter_weight(name: str, base: str) -> Weight | None:
    """Registry entry of adapter ``name`` on ``base``; None when either is a folder or a hub id.

    Raises:
        UnknownName: neither an adapter's name, nor a folder, nor the form of a hub id.
        MissingWeights: there are no registered weights of this adapter for this base.
    """
    # As in load_adapter: a registered name means its weights, whatever folders lie around.
    if is_place(name) and name not in METHODS and name not in WEIGHTS:
        return None
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise MissingWeights(
            f"no folder and no file {name}: an adapter is {', '.join(METHODS)}, a folder, a file of weights, "
            "or a hub id"
        )
    if name in WEIGHTS and WEIGHTS[name].kind == "adapter" and name not in METHODS:
        return WEIGHTS[name]
    if name not in METHODS:
        if "/" in name:
            return None
        raise UnknownName("adapter", name, METHODS)
    if base not in WEIGHTS:
        return None
    for weight in WEIGHTS.values():
        if weight.name in (name, f"{name}-{base}") and base in weight.needs:
            return weight
    raise MissingWeights(f"no weights of '{name}' are registered for base '{base}': give --adapter a folder")


@dataclass(frozen=True)
class Reading:
    """How an identity is read for adapters.

    Attributes:
        encoders: all that they need, in order.
        subject: ``face`` or ``object``.
        mask: where an object's mask comes from when none is given; None for faces.
    """

    encoders: tuple[str, ...]
    subject: Subject
    mask: str | None


def adapters_reading(names: Sequence[str], base: str) -> Reading:
    """How one identity is read for all of ``names`` on ``base``; those that keep nobody do not count.

    Raises:
        BadInput: some keep faces and some objects, or none keeps anybody.
        UnknownName, CheckpointError: as for :func:`adapter_encoders`.
    """
    keeping: list[tuple[str, Sequence[str], Subject, str | None]] = []
    for name in names:
        found, kept, how = adapter_encoders(name, base)
        if found:
            keeping.append((name, found, kept, how))
    if not keeping:
        raise BadInput(f"{', '.join(names)} keeps no identity: give an adapter that does beside it")
    subjects = {subject for _, _, subject, _ in keeping}
    if len(subjects) > 1:
        told = ", ".join(f"{name} keeps {subject}s" for name, _, subject, _ in keeping)
        raise BadInput(f"one identity is a face or an object, and {told}")
    encoders = dict.fromkeys(encoder for _, each, _, _ in keeping for encoder in each)
    return Reading(tuple(encoders), keeping[0][2], keeping[0][3])


def adapter_encoders(name: str, base: str) -> tuple[Sequence[str], Subject, str | None]:
    """Encoders that adapter ``name`` needs on ``base``, what it keeps, and where masks come from.

    Raises:
        UnknownName: no such adapter.
        CheckpointError: a folder that holds none.
    """
    if name in METHODS and METHODS[name].weightless:
        return (), "face", None
    weight = adapter_weight(name, base)
    if weight is not None:
        encoders = weight.reads or [need for need in weight.needs if WEIGHTS[need].kind == "encoder"]
        return encoders, _subject_of(encoders), _mask_of(weight)
    # A folder of ours says it in JSON; only a published layout has to be loaded to know.
    from idpersona.silence import quiet_libraries

    quiet_libraries()
    if (Path(name) / "adapter.json").is_file():
        from idpersona.adapters.base import read_head

        head = read_head(name)
        kind = adapter_class(head["method"]).config_class
        encoders = () if kind is None else kind.from_dict(head["config"]).encoders
        return encoders, _subject_of(encoders), head["config"].get("mask")
    from idpersona.adapters import load_adapter

    adapter = load_adapter(name, base=base)
    return adapter.encoders, _subject_of(adapter.encoders), adapter.config_dict().get("mask")


def _subject_of(encoders: Sequence[str]) -> Subject:
    """Objects where nothing looks at a face."""
    return "object" if encoders and all(encoder_subject(e) == "object" for e in encoders) else "face"


def _mask_of(weight: Weight) -> str | None:
    if not weight.embedded:
        return None
    head = json.loads((locate(weight.name) / "adapter.json").read_text(encoding="utf-8"))
    return head["config"].get("mask")


def needed_weights(base: str, adapters: Sequence[str]) -> list[str]:
    """All names whose weights decide a picture: base, adapters, and what they need."""
    names = [base]
    for adapter in adapters:
        if adapter in METHODS and METHODS[adapter].weightless:
            continue
        weight = adapter_weight(adapter, base)
        if weight is None:
            names.append(adapter)
        else:
            names += [weight.name, *(need for need in weight.needs if WEIGHTS[need].kind != "base")]
    return list(dict.fromkeys(names))


def reading_weights(encoders: Sequence[str], masks: Sequence[str | None]) -> list[str]:
    """Names of all weights that read photos: of encoders, their finders, and ways to find a mask."""
    names = [weight for encoder in encoders for weight in encoder_weights(encoder)]
    ways = {"face": "dlib", "segment": "mask2former"}
    return list(dict.fromkeys([*names, *(ways[mask] for mask in masks if mask in ways)]))

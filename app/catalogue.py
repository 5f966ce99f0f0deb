"""Which bases, adapters and LoRAs a studio offers, and what people call them.

Where weights lie on this machine is nobody's business: folders are called by their last name, in the page, in
answers and in the pictures.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idpersona.adapters import METHODS, is_place
from idpersona.errors import BadInput, IdPersonaError, UnknownName
from idpersona.jobs.prepare import FALLBACK
from idpersona.jobs.weights import adapter_weight, adapters_reading, check_base
from idpersona.registry import WEIGHTS, installed, weight_names


@dataclass(frozen=True)
class Catalogue:
    """Labels -> what they stand for; the first base is chosen first."""

    bases: Mapping[str, str]
    adapters: Mapping[str, str]
    loras: Mapping[str, Path]
    _subjects: dict[tuple[str, str], str | None] = field(default_factory=dict[tuple[str, str], str | None])

    def base(self, label: str | None) -> str:
        """The base of a label; None for the first.

        Raises:
            UnknownName: it is not offered here.
        """
        return self._find(self.bases, "base", label or next(iter(self.bases)))

    def adapter(self, label: str) -> str:
        """The adapter of a label; UnknownName where it is not offered."""
        return self._find(self.adapters, "method", label)

    def lora(self, label: str) -> Path:
        """The LoRA file of a label; UnknownName where it is not offered."""
        return self._find(self.loras, "LoRA", label)

    @staticmethod
    def _find(offered: Mapping[str, Any], kind: str, label: str) -> Any:
        if label not in offered:
            raise UnknownName(kind, label[:80], offered)
        return offered[label]

    def methods(self, base: str | None, subject: str | None = None) -> list[str]:
        """Labels of the adapters that keep an identity on a base (label), those of faces first."""
        real = self.base(base)
        found: list[tuple[str, str]] = []
        for label, name in self.adapters.items():
            if name in METHODS and METHODS[name].weightless:
                continue
            kept = self._subject(name, real)
            if kept is not None:
                found.append((kept, label))
        faces = [label for kind, label in found if kind == "face"]
        objects = [label for kind, label in found if kind == "object"]
        return {"face": faces, "object": objects}.get(subject or "", [*faces, *objects])

    def _subject(self, name: str, base: str) -> str | None:
        """What an adapter keeps on a base, None where it does not run on it.

        Asked once: of folders in a published layout only loading tells.
        """
        key = (name, base)
        if key not in self._subjects:
            self._subjects[key] = None
            with contextlib.suppress(IdPersonaError):
                weight = adapter_weight(name, base)
                if (weight is None and name not in METHODS) or (weight and installed(weight.name)):
                    self._subjects[key] = adapters_reading([name], base).subject
        return self._subjects[key]

    def first_method(self, base: str | None) -> str:
        """Label of the method that is taken on a base (label) when none is said.

        Raises:
            BadInput: none is installed for it.
        """
        methods = self.methods(base)
        if not methods:
            shown = base or next(iter(self.bases))
            raise BadInput(
                f"no method is installed for '{shown}': take another model, or give --adapter FOLDER when "
                "the studio is started"
            )
        return methods[0]

    def helpers(self, base: str | None) -> list[str]:
        """Labels of the adapters that need an identity-keeping one beside them."""
        return [
            label for label, name in self.adapters.items() if name in METHODS and METHODS[name].weightless
        ]

    def subject(self, adapter: str, base: str | None) -> str:
        """What an adapter (label) keeps on a base: ``face`` or ``object``."""
        return adapters_reading([self.adapter(adapter)], self.base(base)).subject

    def defaults(self, base: str | None) -> dict[str, float]:
        """``steps`` and ``guidance`` of a base (label), and those of edits where it has them."""
        real = self.base(base)
        return {**FALLBACK, **(WEIGHTS[real].defaults if real in WEIGHTS else {})}

    def attributes(self, base: str | None) -> tuple[str, list[str]]:
        """A method (label) that moves attributes of faces on a base (label), and which; ("", []) for none."""
        for label in self.methods(base, "face"):
            weight = adapter_weight(self.adapter(label), self.base(base))
            place = None if weight is None else installed(weight.name)
            config = None if place is None else place / "directions" / "config.json"
            if config is not None and config.is_file():
                return label, list(json.loads(config.read_text("utf-8"))["names"])
        return "", []

    def in_text(self, text: str) -> str:
        """A text with every folder of weights as its label."""
        places = {str(real): label for label, real in (*self.bases.items(), *self.adapters.items())}
        places |= {str(real): label for label, real in self.loras.items()}
        for real in sorted(places, key=len, reverse=True):
            if "/" in real or "\\" in real:
                text = text.replace(real, places[real])
        return text

    def public(self, value: Any) -> Any:
        """JSON values with every name of weights as its label."""
        back = {str(real): label for label, real in (*self.bases.items(), *self.adapters.items())}
        back |= {str(real): label for label, real in self.loras.items()}
        return _renamed(value, back)


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(str(key), key): _renamed(inner, names) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_renamed(inner, names) for inner in value]
    return names.get(value, value) if isinstance(value, str) else value


def make_catalogue(bases: Iterable[str], adapters: Iterable[str], loras: Iterable[str]) -> Catalogue:
    """What was given, then what is installed of the registry.

    Raises:
        IdPersonaError: something that was given is not there.
    """
    given = list(dict.fromkeys(bases))
    for base in given:
        check_base(base)
    own = [name for name in weight_names("base") if installed(name) is not None]
    files = [Path(text).expanduser() for text in dict.fromkeys(loras)]
    for file in files:
        if file.suffix != ".safetensors" or not file.is_file():
            raise BadInput(f"--lora takes .safetensors files that are there, got {file}")
    extra = list(dict.fromkeys(adapters))
    for name in extra:
        adapter_weight(name, "")
    offered = Catalogue(
        _labelled([*given, *(name for name in own if name not in given)]),
        _labelled([*extra, *(name for name in METHODS if name not in extra)]),
        {label: Path(path) for label, path in _labelled(map(str, files)).items()},
    )
    if not offered.bases:
        raise BadInput("no base is installed: give --base FOLDER, or run: idpersona models pull sd15")
    return offered


def _labelled(names: Iterable[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for name in names:
        place = name not in WEIGHTS and name not in METHODS and (is_place(name) or Path(name).exists())
        label = short = (
            (Path(name).resolve().stem if Path(name).is_file() else Path(name).resolve().name)
            if place
            else name
        )
        number = 2
        while label in labels:
            label, number = f"{short}-{number}", number + 1
        labels[label] = name
    return labels

"""What is recorded about one set of weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["base", "adapter", "encoder", "judge", "classifier"]
Place = Literal["embedded", "package", "hub", "hand"]
Pin = tuple[str | None, int | None]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """One named set of weights: where it comes from, what it is made of, what one may do with it.

    Attributes:
        name: Registry name, the same on the command line, in files and in Python.
        kind: What it is used as.
        place: ``embedded`` (a folder of ``idpersona/assets``), ``package`` (data files of an installed
            Python package), ``hub`` (a repository of the Hugging Face hub) or ``hand`` (a page from which
            the files are fetched by hand).
        source: The folder in assets, the package, the hub id, which may carry a folder
            (``owner/name:folder``), or the page.
        files: Path below the source -> (sha256, bytes). ``None`` where nothing is pinned; such files are
            checked against what the hub itself states.
        licence: Licence of the weights, in words.
        commercial: Whether the licence allows commercial use. ``--commercial`` refuses the others.
        preprocessing: What a picture, face or text goes through before these weights see it.
        needs: Names of other weights without which these are of no use.
        reads: Of an adapter: encoders that it reads with, where those are not the ones that it needs.
        variant: File variant of diffusers (``fp16``) that ``files`` lists, if any.
        defaults: Of a base: what ``steps`` and ``guidance`` are when the user does not say, and
            ``edit_steps``, ``edit_guidance`` and ``edit_strength`` of edits.
        note: One sentence a user should know before using them.
    """

    name: str
    kind: Kind
    place: Place
    source: str
    files: Mapping[str, Pin]
    licence: str
    commercial: bool
    preprocessing: str
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    variant: str | None = None
    defaults: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def embedded(self) -> bool:
        """Whether the weights are shipped inside idpersona."""
        return self.place == "embedded"

    @property
    def size(self) -> int | None:
        """Bytes of all files together, ``None`` while a size is not known."""
        sizes = [size for _, size in self.files.values()]
        return None if not sizes or None in sizes else sum(s for s in sizes if s is not None)

    @property
    def hub(self) -> tuple[str, str]:
        """Hub id and folder in it (empty for the root)."""
        repository, _, folder = self.source.partition(":")
        return repository, folder

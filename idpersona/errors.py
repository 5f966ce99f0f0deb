"""Every error that idpersona raises for a reason a user can mend.

One line says what is wrong, where, and how to mend it. The command line prints exactly that line and exits
with status 2. Anything else that escapes is a defect of ours.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class IdPersonaError(Exception):
    """Base of all errors below; ``str(error)`` is one clear line."""


class BadInput(IdPersonaError, ValueError):
    """An argument is out of its range, not a number, or contradicts another one."""


class Interrupted(IdPersonaError):
    """A signal ended a long work, which has kept what it had; the message says how to go on with it.

    ``status`` is the exit status: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, signal: int):
        self.status = 128 + signal
        super().__init__(message)


class PhotoError(BadInput):
    """A photo is missing, empty, not an image, truncated, too large or too small."""


class NoFaceFound(PhotoError):
    """No face was found in a photo; ``sizes`` are the detection sizes (pixels) that were tried."""

    def __init__(self, where: str, sizes: Sequence[int] = ()):
        self.sizes = tuple(sizes)
        tried = f" (looked at {', '.join(str(s) for s in self.sizes)} px)" if self.sizes else ""
        super().__init__(
            f"no face found in {where}{tried}: use a sharper photo with the face upright and at least "
            "80 px wide"
        )


class FaceChoiceError(BadInput):
    """The face asked for by number does not exist; the message lists the boxes that were found."""


class IdentityFileError(BadInput):
    """An identity file is corrupt, of a newer version, or holds no feature that is needed."""


class CheckpointError(BadInput):
    """A checkpoint has missing, extra or misshapen keys; the first three are named."""

    @classmethod
    def from_keys(
        cls,
        where: str,
        missing: Iterable[str] = (),
        extra: Iterable[str] = (),
        misshapen: Iterable[str] = (),
    ) -> CheckpointError:
        """Build the message from key lists; at most three keys of each kind are named."""
        parts = []
        for label, keys in (("missing", missing), ("unexpected", extra), ("misshapen", misshapen)):
            names = list(keys)
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                parts.append(f"{label}: {', '.join(names[:3])}{more}")
        return cls(
            f"{where} does not fit: {'; '.join(parts)}. Is it a checkpoint for another base or method?"
        )


class OutputError(BadInput):
    """The output cannot be written: folder missing, not writable, or the file exists without ``force``."""


class UnknownName(BadInput):
    """A name is in no registry; the nearest known names are offered."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        self.kind, self.name, self.known = kind, name, tuple(known)
        near = difflib.get_close_matches(name.lower(), self.known, n=3, cutoff=0.4)
        offer = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(self.known) or 'none'}"
        super().__init__(f"unknown {kind} '{name}': {offer}")


class MissingWeights(IdPersonaError):
    """Weights are not on this machine; the message names the places looked in and what fetches them."""


class SeamError(IdPersonaError):
    """An adapter cannot be attached or detached as asked; the layer is named."""


class LicenceRefused(IdPersonaError):
    """``--commercial`` was asked for and a needed weight is non-commercial."""


class PersonRefused(IdPersonaError):
    """The person in a reference or in an output is denied by the local people registry."""


class ConsentRequired(IdPersonaError):
    """``--require-consent`` was asked for and an identity carries no consent."""


class PeopleFileError(BadInput):
    """The people registry file is damaged, edited, missing where it must be, or of a newer version."""


def first_line(error: BaseException) -> str:
    """The first line of what another library's error says, at most 160 characters; its type if it is mute."""
    lines = str(error).strip().splitlines() or [""]
    line = " ".join(lines[0].rstrip(".: ").split())
    return (line if len(line) <= 160 else f"{line[:159]}…") or type(error).__name__

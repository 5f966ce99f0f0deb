"""Files behind a picture, as a session knows them: by content, and by the name that their owner gave them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from idpersona.app.sessions import Session
from idpersona.errors import BadInput
from idpersona.hashing import file_sha256
from idpersona.images import SAMPLE_PREFIX, photo_sha256, sample_names


@dataclass(frozen=True)
class SessionSources:
    """Nothing is looked for outside of the session and the samples, whatever a picture says.

    Attributes:
        session: whose files these are.
        picture: the picture's name in messages.
        loras: files that the studio offers, by label.
    """

    session: Session
    picture: str = "the picture"
    loras: Mapping[str, Path] = field(default_factory=dict[str, Path])

    def describe(self, name: str) -> dict[str, Any]:
        """The owner's name of a file, and its sha256."""
        shown = self.session.names().get(name, name if name.startswith(SAMPLE_PREFIX) else "")
        offered = {str(path): label for label, path in self.loras.items()}
        shown = shown or offered.get(name, "a file of the studio")
        return {"path": shown, "typed": shown, "sha256": photo_sha256(name)}

    def describe_folders(self, names: Iterable[str]) -> dict[str, str]:
        """Nothing: what a studio offers is known by name."""
        return {}

    def find(self, entry: Mapping[str, Any]) -> str:
        """The photo or identity of that content in the session, or the sample of that name.

        Raises:
            BadInput: it is not here.
        """
        path, sha256 = entry["path"], entry["sha256"]
        if not isinstance(path, str) or not isinstance(sha256, str):
            raise BadInput(f"the settings in {self.picture} are damaged: a source is no text")
        if path.startswith(SAMPLE_PREFIX) and path[len(SAMPLE_PREFIX) :] in sample_names():
            return path
        if path in self.loras and file_sha256(self.loras[path]) == sha256:
            return str(self.loras[path])
        with self.session.lock:
            for photo in self.session.photos.values():
                if photo.sha256 == sha256:
                    return str(photo.path)
            for stored in self.session.identities.values():
                if file_sha256(stored.path) == sha256:
                    return str(stored.path)
        shown = "".join(c for c in path.replace("\\", "/").rpartition("/")[2] if c.isprintable())[:80]
        raise BadInput(
            f"{self.picture} was made from '{shown}', which is not here: add that photo or identity"
        )

    def find_folder(self, name: str, settings: Mapping[str, Any]) -> str:
        """The name itself; whether it is offered here, the catalogue says."""
        return name

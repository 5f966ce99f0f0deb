"""What belongs to one browser: its photos, identities and pictures, in a folder of its own.

Keys are random and travel in a cookie that scripts cannot read. Everything is removed when a session was idle
for a while, when it is asked for, and when the studio ends.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from idpersona.errors import BadInput, UnknownName
from idpersona.identity import Identity

if TYPE_CHECKING:
    from idpersona.pipelines.inversion.record import Inversion

PREFIX = "idpersona-studio-"
PICTURES = 200
PHOTOS = 40
IDENTITIES = 100
INVERSIONS = 8
PHOTO_BYTES = 256 * 1024 * 1024
QUIET = 300.0
"""Seconds without use after which a session makes room for a new one."""


@dataclass(frozen=True)
class StoredPhoto:
    """A photo that was given: where it lies here, and what its owner calls it."""

    id: str
    path: Path
    name: str
    sha256: str
    size: tuple[int, int]


@dataclass(frozen=True)
class StoredIdentity:
    """An identity with the name that its owner gave it, and its file."""

    id: str
    path: Path
    name: str
    identity: Identity


@dataclass(frozen=True)
class StoredPicture:
    """A finished picture: a PNG with its settings.

    ``kind`` is ``create``, ``edit`` or ``compare``; ``before`` is the photo of an edit, ``similarity`` to
    who it shall show, where that was measured, and the ``threshold`` from which it counts as one person.
    """

    id: str
    path: Path
    kind: str
    settings: dict[str, Any]
    size: tuple[int, int]
    before: Path | None = None
    similarity: float | None = None
    threshold: float = 0.0


@dataclass
class Session:
    """All that one browser has; touched by one request at a time through ``lock``."""

    key: str
    folder: Path
    used: float
    photos: OrderedDict[str, StoredPhoto] = field(default_factory=OrderedDict[str, StoredPhoto])
    identities: OrderedDict[str, StoredIdentity] = field(default_factory=OrderedDict[str, StoredIdentity])
    pictures: OrderedDict[str, StoredPicture] = field(default_factory=OrderedDict[str, StoredPicture])
    inversions: OrderedDict[str, Path] = field(default_factory=OrderedDict[str, Path])
    lock: threading.RLock = field(default_factory=threading.RLock)

    def new_path(self, suffix: str) -> tuple[str, Path]:
        """A random id, and a path of that name in the session's folder."""
        if not self.folder.is_dir():
            raise BadInput("this session has ended: load the page again")
        name = secrets.token_hex(8)
        return name, self.folder / f"{name}{suffix}"

    def add_photo(self, photo: StoredPhoto) -> StoredPhoto:
        """Keep a photo; one of the same content takes the other's place.

        Raises:
            BadInput: too many photos.
        """
        with self.lock:
            for other in list(self.photos.values()):
                if other.sha256 == photo.sha256:
                    self.remove_photo(other.id)
            if len(self.photos) >= PHOTOS:
                raise BadInput(f"a session keeps {PHOTOS} photos: remove some first")
            size = sum(other.path.stat().st_size for other in (*self.photos.values(), photo))
            if size > PHOTO_BYTES:
                raise BadInput(f"a session keeps {PHOTO_BYTES >> 20} MiB of photos: remove some first")
            self.photos[photo.id] = photo
            return photo

    def remove_photo(self, id: str) -> None:
        """Forget a photo; nothing happens where there is none."""
        with self.lock:
            photo = self.photos.pop(id, None)
            if photo is not None:
                photo.path.unlink(missing_ok=True)

    def add_identity(self, identity: Identity, name: str) -> StoredIdentity:
        """Keep an identity under a name that is free, or made so.

        Raises:
            BadInput: too many identities.
        """
        with self.lock:
            if len(self.identities) >= IDENTITIES:
                raise BadInput(f"a session keeps {IDENTITIES} identities: remove some first")
            taken = {stored.name for stored in self.identities.values()}
            free, number = name, 2
            while free in taken:
                free, number = f"{name} ({number})", number + 1
            id, path = self.new_path(".safetensors")
            identity.save(path)
            stored = StoredIdentity(id, path, free, identity)
            self.identities[id] = stored
            return stored

    def remove_identity(self, id: str) -> None:
        """Forget an identity; nothing happens where there is none."""
        with self.lock:
            stored = self.identities.pop(id, None)
            if stored is not None:
                stored.path.unlink(missing_ok=True)

    def add_picture(self, picture: StoredPicture) -> StoredPicture:
        """Keep a picture; the oldest go when there are too many."""
        with self.lock:
            self.pictures[picture.id] = picture
            while len(self.pictures) > PICTURES:
                _, old = self.pictures.popitem(last=False)
                old.path.unlink(missing_ok=True)
                if old.before is not None:
                    old.before.unlink(missing_ok=True)
            return picture

    def keep_inversion(self, key: str, record: Inversion) -> None:
        """Keep the inversion of a photo for further edits; the oldest go when there are many."""
        with self.lock:
            _, path = self.new_path(".safetensors")
            record.save(path)
            self.inversions[key] = path
            while len(self.inversions) > INVERSIONS:
                _, old = self.inversions.popitem(last=False)
                old.unlink(missing_ok=True)

    def photo(self, id: str) -> StoredPhoto:
        """Photo by id; UnknownName where it is gone."""
        return _get(self.photos, id, "photo")

    def identity(self, id: str) -> StoredIdentity:
        """Identity by id; UnknownName where it is gone."""
        return _get(self.identities, id, "identity")

    def picture(self, id: str) -> StoredPicture:
        """Picture by id; UnknownName where it is gone."""
        return _get(self.pictures, id, "picture")

    def names(self) -> dict[str, str]:
        """Paths of all files here -> what their owner calls them, for messages."""
        with self.lock:
            named = {str(photo.path): photo.name for photo in self.photos.values()}
            named |= {str(stored.path): stored.name for stored in self.identities.values()}
            return named


def _get(entries: OrderedDict[str, Any], id: str, kind: str) -> Any:
    try:
        return entries[id]
    except KeyError:
        raise UnknownName(kind, str(id)[:40], ()) from None


class Sessions:
    """All sessions of one studio.

    Args:
        idle: seconds after which an unused session is removed.
        most: sessions at once; one that was not used for a while goes when there are more.
        root: where their folders lie [default: a private folder among the temporary files].
    """

    def __init__(self, *, idle: float = 3600.0, most: int = 200, root: Path | None = None):
        self.idle, self.most = idle, most
        _sweep(Path(tempfile.gettempdir()))
        self.root = root or Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.RLock()

    @staticmethod
    def new_key() -> str:
        """A key that nobody guesses."""
        return secrets.token_urlsafe(24)

    def get(self, key: str) -> Session:
        """The session of a key; made where there is none.

        Raises:
            BadInput: there are too many, and all of them are in use: nobody is put out for somebody new.
        """
        with self._lock:
            session = self._sessions.get(key)
            now = time.monotonic()
            if session is None:
                if len(self._sessions) >= self.most:
                    oldest = next(iter(self._sessions.values()))
                    if now - oldest.used < QUIET:
                        raise BadInput(
                            f"{self.most} people use this studio already: try again in some minutes"
                        )
                    self.remove(oldest.key)
                folder = self.root / secrets.token_hex(8)
                folder.mkdir(mode=0o700)
                session = self._sessions[key] = Session(key, folder, now)
            session.used = now
            self._sessions.move_to_end(key)
            return session

    def find(self, key: str | None) -> Session | None:
        """The session of a key, when there is one."""
        with self._lock:
            session = None if key is None else self._sessions.get(key)
            if session is not None:
                session.used = time.monotonic()
            return session

    def remove(self, key: str) -> None:
        """End a session and remove all its files."""
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            shutil.rmtree(session.folder, ignore_errors=True)

    def expire(self, now: float | None = None) -> int:
        """Remove sessions that were idle too long; how many."""
        at = time.monotonic() if now is None else now
        with self._lock:
            old = [key for key, session in self._sessions.items() if at - session.used > self.idle]
        for key in old:
            self.remove(key)
        return len(old)

    def __len__(self) -> int:
        return len(self._sessions)

    def close(self) -> None:
        """End all sessions and remove the studio's folder."""
        for key in list(self._sessions):
            self.remove(key)
        shutil.rmtree(self.root, ignore_errors=True)


def _sweep(temporary: Path) -> None:
    """Remove what studios left behind that were killed."""
    for folder in temporary.glob(f"{PREFIX}*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        mine = folder.stat().st_uid == os.getuid() if hasattr(os, "getuid") else True
        if pid.isdigit() and mine and not _alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

"""What belongs to one browser: its photos, identities and pictures, in a folder of its own.

Keys are random and travel in a cookie that scripts cannot read. Everything is removed when a session was idle
for a while, when it is asked for, and when the studio ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import shutil
import tempfile
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

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
IDENTITY_BYTES = 32 * 1024 * 1024
RESERVE = 256 * 1024 * 1024
"""Bytes of the disc that are never filled."""
QUIET = 300.0
"""Seconds without use after which a session makes room for a new one."""
LOCK = ".in-use"
YOUNG = 60.0
"""Seconds in which a folder without a lock may become a running studio's."""


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

    ``kind`` is ``create``, ``edit`` or ``compare``; ``before`` is the photo of an edit. ``judge`` is the
    encoder that measured the ``similarity`` to who it shall show, empty where nobody did; one of None
    says that it found no face; from ``threshold`` on it counts as one person.
    """

    id: str
    path: Path
    kind: str
    settings: dict[str, Any]
    size: tuple[int, int]
    before: Path | None = None
    judge: str = ""
    similarity: float | None = None
    threshold: float = 0.0


@dataclass(frozen=True)
class StoredInversion:
    """The file of an inversion, and the ``weights`` that settings say it was made with."""

    path: Path
    weights: dict[str, Any]


@dataclass
class Session:
    """All that one browser has; touched by one request at a time through ``lock``.

    ``client`` is the address that it came from first.
    """

    key: str
    folder: Path
    used: float
    client: str = ""
    photos: OrderedDict[str, StoredPhoto] = field(default_factory=OrderedDict[str, StoredPhoto])
    identities: OrderedDict[str, StoredIdentity] = field(default_factory=OrderedDict[str, StoredIdentity])
    pictures: OrderedDict[str, StoredPicture] = field(default_factory=OrderedDict[str, StoredPicture])
    inversions: OrderedDict[str, StoredInversion] = field(default_factory=OrderedDict[str, "StoredInversion"])
    lock: threading.RLock = field(default_factory=threading.RLock)

    def new_path(self, suffix: str) -> tuple[str, Path]:
        """A random id, and a path of that name in the session's folder."""
        if not self.folder.is_dir():
            raise BadInput("this session has ended: load the page again")
        if disc_full(self.folder):
            raise BadInput("the studio's disc is nearly full: remove what is not needed, or try again later")
        name = secrets.token_hex(8)
        return name, self.folder / f"{name}{suffix}"

    def add_photo(self, photo: StoredPhoto) -> StoredPhoto:
        """Keep a photo; one of the same content stays as it is, and is given back instead.

        Raises:
            BadInput: too many photos.
        """
        with self.lock:
            for other in self.photos.values():
                if other.sha256 == photo.sha256:
                    return other  # jobs that wait may need that very file
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
            BadInput: too many identities, or too large ones.
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
            files = (*(one.path for one in self.identities.values()), path)
            if sum(file.stat().st_size for file in files) > IDENTITY_BYTES:
                path.unlink()
                raise BadInput(f"a session keeps {IDENTITY_BYTES >> 20} MiB of identities: remove some first")
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
                _remove(self.pictures.popitem(last=False)[1])
            return picture

    def remove_picture(self, id: str) -> None:
        """Forget a picture; nothing happens where there is none."""
        with self.lock:
            picture = self.pictures.pop(id, None)
            if picture is not None:
                _remove(picture)

    def keep_inversion(self, key: str, record: Inversion, weights: dict[str, Any]) -> None:
        """Keep the inversion of a photo for further edits; the oldest go when there are many."""
        with self.lock:
            _, path = self.new_path(".safetensors")
            record.save(path)
            self.inversions[key] = StoredInversion(path, weights)
            while len(self.inversions) > INVERSIONS:
                _, old = self.inversions.popitem(last=False)
                old.path.unlink(missing_ok=True)

    def inversion(self, key: str) -> StoredInversion | None:
        """An inversion that was kept, which thereby is the newest."""
        with self.lock:
            if key in self.inversions:
                self.inversions.move_to_end(key)
            return self.inversions.get(key)

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


def disc_full(folder: Path) -> bool:
    """Whether nothing more should be written where ``folder`` lies."""
    return shutil.disk_usage(folder).free < RESERVE


def _remove(picture: StoredPicture) -> None:
    for path in (picture.path, picture.before):
        if path is not None:
            path.unlink(missing_ok=True)


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
        self.root = root or Path(tempfile.mkdtemp(prefix=PREFIX))
        self._held = FileLock(self.root / LOCK)
        self._held.acquire()
        self._secret = secrets.token_bytes(32)
        self._leaving: set[Path] = set()
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._guests: dict[str, Session] = {}
        self._lock = threading.RLock()

    @staticmethod
    def new_key() -> str:
        """A key that nobody guesses."""
        return secrets.token_urlsafe(24)

    def issue(self) -> str:
        """A new key of which this studio will know that it is its own."""
        key = self.new_key()
        return f"{key}.{self._sign(key)}"

    def issued(self, key: str) -> bool:
        """Whether a key is one of :meth:`issue`."""
        name, _, signature = key.partition(".")
        return hmac.compare_digest(signature.encode(), self._sign(name).encode())

    def _sign(self, name: str) -> str:
        return hmac.new(self._secret, name.encode(), hashlib.sha256).hexdigest()[:32]

    def get(self, key: str, client: str = "") -> Session:
        """The session of a key; made where there is none, for somebody at the address ``client``.

        Raises:
            BadInput: there are too many, and all of them are in use: nobody is put out for somebody new, but
                for who holds a good part of them.
        """
        with self._lock:
            session = self._sessions.get(key)
            now = time.monotonic()
            if session is None:
                if len(self._sessions) >= self.most:
                    self._make_room(client, now)
                session = self._sessions[key] = Session(key, self._new_folder(), now, client)
            session.used = now
            self._sessions.move_to_end(key)
            return session

    def guest(self, client: str) -> Session:
        """A session for one request, which nobody else finds; its maker removes it."""
        with self._lock:
            key = f"guest {self.new_key()}"
            session = self._guests[key] = Session(key, self._new_folder(), time.monotonic(), client)
            return session

    def _new_folder(self) -> Path:
        folder = self.root / secrets.token_hex(8)
        folder.mkdir(mode=0o700)
        return folder

    def _make_room(self, client: str, now: float) -> None:
        oldest = next(iter(self._sessions.values()))
        if now - oldest.used < QUIET:
            most, share = Counter(one.client for one in self._sessions.values()).most_common(1)[0]
            if most == client or share <= self.most // 4:
                raise BadInput(f"{self.most} people use this studio already: try again in some minutes")
            oldest = next(one for one in self._sessions.values() if one.client == most)
        self.remove(oldest.key)

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
            session = self._sessions.pop(key, None) or self._guests.pop(key, None)
        if session is not None:
            self._leaving.add(session.folder)
            self._leave()

    def _leave(self) -> None:
        """Remove folders of sessions that ended; a job may have written into one while it was removed."""
        for folder in list(self._leaving):
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                self._leaving.discard(folder)

    def expire(self, busy: Collection[str] = ()) -> int:
        """Remove sessions that were idle too long, but for ``busy`` ones (keys); how many."""
        self._leave()
        at = time.monotonic()
        with self._lock:
            for key in busy:
                if key in self._sessions:
                    self._sessions[key].used = at
            old = [key for key, session in self._sessions.items() if at - session.used > self.idle]
        for key in old:
            self.remove(key)
        return len(old)

    def __len__(self) -> int:
        return len(self._sessions) + len(self._guests)

    def close(self) -> None:
        """End all sessions and remove the studio's folder."""
        for key in [*self._sessions, *self._guests]:
            self.remove(key)
        self._held.release()
        shutil.rmtree(self.root, ignore_errors=True)


def _sweep(temporary: Path) -> None:
    """Remove what studios left behind that were killed; those that run hold a lock."""
    for folder in temporary.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError, Timeout):
            # One that has just been made has no lock yet.
            if folder.is_symlink() or time.time() - folder.stat().st_mtime < YOUNG:
                continue
            with FileLock(folder / LOCK, timeout=0):
                pass
            shutil.rmtree(folder, ignore_errors=True)

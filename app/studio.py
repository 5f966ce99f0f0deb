"""What the page and the interface ask for, as jobs of a session."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from idpersona.app.asks import Create, Edit
from idpersona.app.catalogue import Catalogue, make_catalogue
from idpersona.app.engine import Busy, Engine, Ticket
from idpersona.app.limits import RateLimiter
from idpersona.app.sessions import Session, Sessions, StoredIdentity, StoredPhoto, StoredPicture
from idpersona.app.settings import Settings
from idpersona.app.sources import SessionSources
from idpersona.app.translate import create_request, edit_request, place
from idpersona.app.uploads import safe_name, store_photo
from idpersona.app.words import Worded, Words
from idpersona.errors import BadInput, IdPersonaError
from idpersona.identity import Identity
from idpersona.jobs import limits
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models
from idpersona.jobs.request import Request

T = TypeVar("T")
MOST_PICTURES = 8
MOST_COMPARED = 12
GUESTS = 16
"""Requests of the interface that are answered at once, for one address; four times as many for all."""
PATIENCE = 120.0
"""Seconds in which a photo is looked at."""


def uploads_of(studio: Studio) -> Path:
    """Gradio's own folder; one for a process."""
    return studio.sessions.root / "gradio"


class Studio:
    """Engine, sessions and catalogue of one server. ``close`` ends all of them.

    ``stopping`` is set when the server ends: answers that go on for ever end then, too.
    """

    def __init__(self, settings: Settings):
        self.settings = settings.checked()
        self.catalogue: Catalogue = make_catalogue(settings.bases, settings.adapters, settings.loras)
        self.sessions = Sessions(idle=settings.idle)
        self.engine = Engine(waiting=settings.waiting, seconds=60 * settings.minutes)
        self.rate = RateLimiter(settings.rate)
        self.stopping = asyncio.Event()
        self._guests: Counter[str] = Counter()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Call off all jobs and remove all files."""
        self.engine.close()
        self.sessions.close()

    @contextlib.contextmanager
    def guest(self, client: str) -> Iterator[Session]:
        """A session for one request from the address ``client``.

        What runs in it ends within a step, and its files go with it.

        Raises:
            Busy: too many requests are being answered.
        """
        with self._lock:
            if self._guests[client] >= GUESTS or self._guests.total() >= 4 * GUESTS:
                raise Busy("too many requests are being answered: try again in a minute")
            self._guests[client] += 1
        try:
            session = self.sessions.guest(client)
            try:
                yield session
            finally:
                self.engine.cancel(session.key)
                self.sessions.remove(session.key)
        finally:
            with self._lock:
                self._guests[client] -= 1
                self._guests += Counter()  # without those who have gone

    def warm_up(self) -> Ticket[None]:
        """Load the first base, so that the first picture need not wait for it."""
        base = self.catalogue.base(None)
        methods = self.catalogue.methods(None)[:1]
        names = [self.catalogue.adapter(label) for label in methods]

        def work(models: Models, listener: Listener) -> None:
            models.load(base, names, listener, device=self.settings.device, dtype=self.settings.dtype)
            if not self.settings.commercial:
                from idpersona.encoders import get_encoder

                get_encoder("dlib")

        return self.engine.submit("", work)

    # Photos and identities

    def add_photo(self, session: Session, data: bytes, name: str) -> StoredPhoto:
        """Check and keep a photo that was given; waits until the people registry has been asked, too.

        Raises:
            PhotoError: no image, damaged, too large or too small.
            PersonRefused: it shows somebody who may not be used.
        """
        most_bytes, most_pixels = self.settings.max_upload, self.settings.max_pixels
        photo, opened = store_photo(session, data, name, max_bytes=most_bytes, max_pixels=most_pixels)
        from idpersona.safety import check_photo, load_people

        people = load_people()
        if people.guards:

            def work(_models: Models, _listener: Listener) -> None:
                check_photo(opened.image, people, photo.name)

            try:
                self.engine.soon(session.key, work).wait(PATIENCE)
            except TimeoutError:
                session.remove_photo(photo.id)
                raise Busy("very many photos are being read: try again in a minute") from None
            except BaseException:
                session.remove_photo(photo.id)
                raise
        return photo

    def add_identity(self, session: Session, data: bytes, name: str) -> StoredIdentity:
        """Check and keep an identity file that was given.

        Raises:
            IdentityFileError: it is none, or damaged.
            PersonRefused: it is of somebody who may not be used.
        """
        from idpersona.safety import check_identity, load_people

        shown = safe_name(name, "identity")
        if len(data) > self.settings.max_upload:
            raise BadInput(f"{shown} is larger than the {self.settings.max_upload >> 20} MiB allowed")
        _, path = session.new_path(".upload.safetensors")
        try:
            path.write_bytes(data)
            try:
                identity = Identity.load(path)
                check_identity(identity, load_people(), shown)
            except IdPersonaError as error:
                raise type(error)(str(error).replace(str(path), shown)) from None
        finally:
            path.unlink(missing_ok=True)
        return session.add_identity(identity, shown.removesuffix(".safetensors") or "identity")

    def read(
        self,
        session: Session,
        photos: tuple[str, ...],
        name: str,
        *,
        base: str | None = None,
        method: str | None = None,
        face: int | None = None,
        consent: bool = False,
    ) -> Ticket[StoredIdentity]:
        """Read photos (ids, samples) of one person or object into an identity, with all a method needs.

        What tells people apart is read, too, so that the identity can be compared and checked.
        """
        paths = [place(session, id) for id in photos]
        if not paths:
            raise BadInput("give at least one photo")
        label = method or self.catalogue.first_method(base)
        real, adapter = self.catalogue.base(base), self.catalogue.adapter(label)

        def work(_models: Models, listener: Listener) -> StoredIdentity:
            from idpersona.jobs.weights import adapters_reading, reading_weights
            from idpersona.registry import require_commercial
            from idpersona.safety import load_people, read_allowed

            people = load_people()
            wanted = adapters_reading([adapter], real)
            encoders = list(wanted.encoders)
            if wanted.subject == "face":
                encoders += [one for one in ("dlib", *people.encoders) if one not in encoders]
            if self.settings.commercial:
                require_commercial(reading_weights(encoders, [wanted.mask]))
            told: dict[str, Any] = {"subject": wanted.subject, "consent": consent}
            told |= {"face": face} if wanted.subject == "face" else {"mask": wanted.mask}
            listener.started(0, "reading")
            identity = read_allowed(paths, encoders, people, **told)
            for warning in identity.warnings:
                listener.note(warning)
            listener.started(0, "keeping")  # which ends what was called off meanwhile
            return session.add_identity(identity, safe_name(name, "identity"))

        return self._submit(session, work)

    def merge(self, session: Session, ids: tuple[str, ...], name: str) -> StoredIdentity:
        """The mean of several identities (ids) as a new one."""
        stored = [session.identity(id) for id in ids]
        if len(stored) < 2:
            raise BadInput("choose two identities or more to merge")
        from idpersona.safety import check_identity, load_people

        merged = Identity.merge([one.identity for one in stored], "mean")
        check_identity(merged, load_people(), "the merged identity")
        return session.add_identity(merged, safe_name(name, "merged"))

    def alike(self, session: Session, chosen: tuple[str, ...]) -> Ticket[Any]:
        """Whether two of the chosen (``identity:ID``, ``photo:ID``, samples) are one person."""
        from idpersona.app.people_choice import IDENTITY, photo_id

        if len(chosen) != 2:
            raise BadInput("choose two to compare: identities, or photos")
        pair = [
            session.identity(one.removeprefix(IDENTITY)).identity
            if one.startswith(IDENTITY)
            else place(session, photo_id(one))
            for one in chosen
        ]

        self.check_reading("dlib")

        def work(_models: Models, _listener: Listener) -> Any:
            from idpersona.encoders import read_identity, similarity

            both = [one if isinstance(one, Identity) else read_identity(one, "dlib") for one in pair]
            return dict(similarity(both[0], both[1]))

        return self._submit(session, work)

    def check_reading(self, *encoders: str) -> None:
        """Refuse encoders whose licence the studio may not use."""
        if self.settings.commercial:
            from idpersona.jobs.weights import reading_weights
            from idpersona.registry import require_commercial

            require_commercial(reading_weights(encoders, []))

    # Pictures

    def create(self, session: Session, ask: Create) -> Ticket[list[StoredPicture]]:
        """Make pictures.

        Raises:
            BadInput: something is out of range, contradicts the rest, or is not here.
            Busy: too many jobs wait.
        """
        limits.whole("-n", ask.count, (1, MOST_PICTURES))
        return self._pictures(session, [self._request(session, ask)], ask.count, "create")

    def compare(self, session: Session, asks: list[Create]) -> Ticket[list[StoredPicture]]:
        """One picture for each of several requests of equal steps, in one job: all of them or none."""
        if not 1 <= len(asks) <= MOST_COMPARED:
            raise BadInput(f"compare up to {MOST_COMPARED} pictures at once")
        requests = [self._request(session, replace(ask, count=1)) for ask in asks]
        return self._pictures(session, requests, 1, "compare")

    def _pictures(
        self, session: Session, requests: list[Request], count: int, kind: str
    ) -> Ticket[list[StoredPicture]]:
        def work(models: Models, listener: Listener) -> list[StoredPicture]:
            from idpersona.app.drawing import draw_all, prepare_all

            asked = prepare_all(requests, count, self.settings, self._sources(session), listener)
            public, commercial = self.catalogue.public, self.settings.commercial
            return draw_all(asked, session, kind, models, listener, public=public, commercial=commercial)

        return self._submit(session, work)

    def edit(self, session: Session, ask: Edit) -> Ticket[StoredPicture]:
        """Change a photo. An inversion of the same photo, made in the same way, is used again.

        Raises:
            BadInput: something is out of range, contradicts the rest, or is not here.
            Busy: too many jobs wait.
        """
        request = edit_request(ask, session, self.catalogue, self.settings)
        # All that an inversion depends on; of an adapter's options none does.
        depends = ("photo", "source", "base", "method", "steps", "guidance", "adapters", "scale", "face")
        key = repr([getattr(request, name) for name in depends])

        def work(models: Models, listener: Listener) -> StoredPicture:
            from idpersona.jobs.edit_draw import draw_edit
            from idpersona.jobs.edit_prepare import prepare
            from idpersona.provenance import COMPOSITE_TYPE, write_png

            kept = session.inversion(key)
            job = prepare(
                request if kept is None else replace(request, inversion=kept.path, method=None),
                self._sources(session),
                listener,
                commercial=self.settings.commercial,
                require_consent=self.settings.require_consent,
            )
            edited = draw_edit(job, models, listener)
            if kept is None:
                session.keep_inversion(key, edited.record, edited.settings["weights"])
                weights = edited.settings["weights"]
            else:
                weights = kept.weights
            # That it was made before changes nothing of the picture, and is not said.
            told = self.catalogue.public({**edited.settings, "inversion": None, "weights": weights})
            id, path = session.new_path(".png")
            before = path.with_name(f"{id}-before.png")
            edited.photo.save(before)
            write_png(edited.picture, path, told, source_type=COMPOSITE_TYPE)
            return session.add_picture(StoredPicture(id, path, "edit", told, edited.picture.size, before))

        return self._submit(session, work)

    # Helpers

    def _sources(self, session: Session) -> SessionSources:
        return SessionSources(session, loras=self.catalogue.loras)

    def _request(self, session: Session, ask: Create) -> Request:
        most = self.settings.max_size
        if ask.size is not None and max(ask.size) > most:
            raise BadInput(f"--size: this studio makes pictures of up to {most} pixels a side")
        return create_request(ask, session, self.catalogue, self.settings)

    def _submit(self, session: Session, work: Callable[[Models, Listener], T]) -> Ticket[T]:
        words = Words(session, self.catalogue)

        def worded(models: Models, listener: Listener) -> T:
            with words.errors():
                return work(models, Worded(listener, words))

        return self.engine.submit(session.key, worded, session.client)

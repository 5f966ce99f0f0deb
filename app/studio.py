"""What the page and the interface ask for, as jobs of a session."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, TypeVar

from idpersona.app.asks import Create, Edit
from idpersona.app.catalogue import Catalogue, make_catalogue
from idpersona.app.engine import Engine, Ticket
from idpersona.app.limits import RateLimiter
from idpersona.app.sessions import Session, Sessions, StoredIdentity, StoredPhoto, StoredPicture
from idpersona.app.settings import Settings
from idpersona.app.sources import SessionSources
from idpersona.app.translate import create_request, edit_request, place
from idpersona.app.uploads import safe_name, store_photo
from idpersona.errors import BadInput, IdPersonaError
from idpersona.identity import Identity
from idpersona.jobs.listener import Listener
from idpersona.jobs.models import Models
from idpersona.jobs.request import Request

T = TypeVar("T")
MOST_PICTURES = 8


class Studio:
    """Engine, sessions and catalogue of one server. ``close`` ends all of them."""

    def __init__(self, settings: Settings):
        self.settings = settings.checked()
        self.catalogue: Catalogue = make_catalogue(settings.bases, settings.adapters, settings.loras)
        self.sessions = Sessions(idle=settings.idle)
        self.engine = Engine(waiting=settings.waiting)
        self.rate = RateLimiter(settings.rate)

    def close(self) -> None:
        """Call off all jobs and remove all files."""
        self.engine.close()
        self.sessions.close()

    @contextlib.contextmanager
    def guest(self) -> Iterator[Session]:
        """A session for one request; what runs in it ends within a step, and its files go with it."""
        key = f"guest {Sessions.new_key()}"
        try:
            yield self.sessions.get(key)
        finally:
            self.engine.cancel(key)
            self.sessions.remove(key)

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
        limits = self.settings
        photo, opened = store_photo(
            session, data, name, max_bytes=limits.max_upload, max_pixels=limits.max_pixels
        )
        from idpersona.safety import check_photo, load_people

        people = load_people()
        if people.guards:

            def work(_models: Models, _listener: Listener) -> None:
                check_photo(opened.image, people, photo.name)

            try:
                self.engine.soon(session.key, work).wait()
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
            identity = read_allowed(paths, encoders, people, **told)
            for warning in identity.warnings:
                listener.note(warning)
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
        from idpersona.jobs import limits

        limits.whole("-n", ask.count, (1, MOST_PICTURES))
        request = self._request(session, ask)

        def work(models: Models, listener: Listener) -> list[StoredPicture]:
            return self._draw(session, request, ask.count, models, listener, "create")

        return self._submit(session, work)

    def compare(self, session: Session, asks: list[Create]) -> Ticket[list[StoredPicture]]:
        """One picture for each of several requests, in one job: all of them or none."""
        if not 1 <= len(asks) <= 12:
            raise BadInput("compare up to 12 pictures at once")
        requests = [self._request(session, replace(ask, count=1)) for ask in asks]

        def work(models: Models, listener: Listener) -> list[StoredPicture]:
            found: list[StoredPicture] = []
            for number, request in enumerate(requests, start=1):
                told = _Numbered(listener, number, len(requests))
                found += self._draw(session, request, 1, models, told, "compare")
            return found

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

            kept = session.inversions.get(key)
            with self._in_words_of(session):
                job = prepare(
                    request if kept is None else replace(request, inversion=kept, method=None),
                    self._sources(session),
                    listener,
                    commercial=self.settings.commercial,
                    require_consent=self.settings.require_consent,
                )
                edited = draw_edit(job, models, listener)
            told = self.catalogue.public(edited.settings)
            if kept is None:
                session.keep_inversion(key, edited.record)
            id, path = session.new_path(".png")
            before = path.with_name(f"{id}-before.png")
            edited.photo.save(before)
            write_png(edited.picture, path, told, source_type=COMPOSITE_TYPE)
            return session.add_picture(StoredPicture(id, path, "edit", told, edited.picture.size, before))

        return self._submit(session, work)

    # Helpers

    def _draw(
        self,
        session: Session,
        request: Request,
        count: int,
        models: Models,
        listener: Listener,
        kind: str,
    ) -> list[StoredPicture]:
        from idpersona.app.likeness import likeness
        from idpersona.jobs.draw import draw
        from idpersona.jobs.prepare import prepare
        from idpersona.provenance import write_pngs

        with self._in_words_of(session):
            job = prepare(
                request,
                count,
                self._sources(session),
                listener,
                commercial=self.settings.commercial,
                require_consent=self.settings.require_consent,
            )
            drawn = draw(job, models, listener)
        members = [member.identity for member in job.cast.members]
        places = [session.new_path(".png") for _ in drawn]
        told = [self.catalogue.public(settings) for _, settings in drawn]
        write_pngs(
            [(image, path, text) for (image, _), (_, path), text in zip(drawn, places, told, strict=True)]
        )
        found: list[StoredPicture] = []
        for (image, _), (id, path), text in zip(drawn, places, told, strict=True):
            alike = likeness(image, members)
            stored = StoredPicture(id, path, kind, text, image.size)
            if alike is not None:
                stored = replace(stored, similarity=alike["similarity"], threshold=alike["threshold"])
            found.append(session.add_picture(stored))
        return found

    def _sources(self, session: Session) -> SessionSources:
        return SessionSources(session, loras=self.catalogue.loras)

    def _request(self, session: Session, ask: Create) -> Request:
        return create_request(ask, session, self.catalogue, self.settings)

    def _submit(self, session: Session, work: Any) -> Ticket[Any]:
        return self.engine.submit(session.key, work)

    @contextlib.contextmanager
    def _in_words_of(self, session: Session) -> Iterator[None]:
        """Errors name files as their owner does."""
        names = session.names()
        try:
            yield
        except IdPersonaError as error:
            from idpersona.app.speech import speak

            if len(error.args) == 1:
                error.args = (speak(str(error), names),)
            raise


class _Numbered(Listener):
    """One of several pictures of a job: its steps count towards all of them."""

    def __init__(self, listener: Listener, number: int, of: int):
        self._listener, self._number, self._of = listener, number, of

    def note(self, text: str) -> None:
        self._listener.note(text)

    def loading(self, names: str) -> Any:
        return self._listener.loading(names)

    def started(self, steps: int, what: str) -> None:
        self._listener.started(steps, f"picture {self._number} of {self._of}")

    def step(self, where: str = "", pipe: Any = None, latents: Any = None) -> None:
        self._listener.step(where, pipe, latents)

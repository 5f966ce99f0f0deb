"""Sessions: nobody sees what is another's, and nothing stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from PIL import Image

from idpersona import read_identity
from idpersona.app.sessions import (
    PHOTOS,
    PICTURES,
    PREFIX,
    QUIET,
    YOUNG,
    Sessions,
    StoredPhoto,
    StoredPicture,
    _sweep,
)
from idpersona.app.uploads import safe_name, store_photo
from idpersona.errors import BadInput, PhotoError, UnknownName

LIMITS = {"max_bytes": 1_000_000, "max_pixels": 1_000_000}


@pytest.fixture
def sessions(tmp_path):
    (tmp_path / "root").mkdir()
    made = Sessions(idle=10, most=3, root=tmp_path / "root")
    yield made
    made.close()
    assert not (tmp_path / "root").exists()


def test_what_is_of_one_is_not_of_another(sessions, photo):
    one, two = sessions.get("one"), sessions.get("two")
    stored, _ = store_photo(one, photo.read_bytes(), "a.jpg", **LIMITS)
    assert one.photo(stored.id) is stored
    with pytest.raises(UnknownName):
        two.photo(stored.id)
    assert one.folder != two.folder
    assert oct(one.folder.stat().st_mode)[-3:] == "700"
    sessions.remove("one")
    assert not stored.path.exists()
    assert sessions.find("one") is None
    assert sessions.find(None) is None


def test_unused_sessions_go_and_used_ones_stay(sessions):
    old, fresh = sessions.get("old"), sessions.get("fresh")
    old.used -= 11
    assert sessions.expire() == 1
    assert not old.folder.exists()
    assert sessions.get("fresh") is fresh


def test_who_is_away_makes_room_and_who_is_here_does_not(sessions):
    first = sessions.get("1")
    second = sessions.get("2")
    sessions.get("3")
    assert sessions.get("1") is first
    with pytest.raises(BadInput, match="3 people use this studio"):
        sessions.get("4")
    second.used -= QUIET + 1
    sessions.get("4")
    assert len(sessions) == 3
    assert sessions.find("2") is None
    assert not second.folder.exists()
    assert sessions.find("1") is first


def test_a_session_that_has_ended_says_so(sessions):
    gone = sessions.get("5")
    sessions.remove("5")
    with pytest.raises(BadInput, match="session has ended"):
        gone.new_path(".png")


def test_photos_may_not_fill_the_disc(sessions, photo, monkeypatch):
    from idpersona.app import sessions as module

    monkeypatch.setattr(module, "PHOTO_BYTES", photo.stat().st_size + 10)
    session = sessions.get("a")
    store_photo(session, photo.read_bytes(), "a.jpg", **LIMITS)
    with pytest.raises(BadInput, match="MiB of photos"):
        store_photo(session, photo.read_bytes() + b"more", "b.jpg", **LIMITS)
    assert len(list(session.folder.iterdir())) == 1


def test_the_same_photo_is_kept_once_and_too_many_are_refused(sessions, photo):
    session = sessions.get("a")
    first, _ = store_photo(session, photo.read_bytes(), "a.jpg", **LIMITS)
    second, _ = store_photo(session, photo.read_bytes(), "b.jpg", **LIMITS)
    assert second is first  # a job that waits may need that very file
    assert list(session.folder.iterdir()) == [first.path]
    for number in range(PHOTOS - 1):
        session.add_photo(StoredPhoto(str(number), second.path, "x", str(number), (1, 1)))
    with pytest.raises(BadInput, match=f"{PHOTOS} photos"):
        session.add_photo(StoredPhoto("more", second.path, "x", "more", (1, 1)))


def test_the_oldest_pictures_make_room(sessions):
    session = sessions.get("a")
    paths = []
    for number in range(PICTURES + 1):
        id, path = session.new_path(".png")
        path.write_bytes(b"x")
        paths.append(path)
        session.add_picture(StoredPicture(id, path, "create", {"seed": number}, (1, 1)))
    assert not paths[0].exists()
    assert paths[1].exists()
    assert len(session.pictures) == PICTURES


def test_identities_of_one_name_are_told_apart(sessions):
    session, me = sessions.get("a"), read_identity("sample:astronaut")
    names = [session.add_identity(me, "me").name for _ in range(3)]
    assert names == ["me", "me (2)", "me (3)"]
    id = next(iter(session.identities))
    path = session.identity(id).path
    session.remove_identity(id)
    assert not path.exists()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\me.jpg", "me.jpg"),
        ("a\0b\n\u202ec.jpg", "abc.jpg"),
        ("", "photo"),
        ("..", ".."),
        ("x" * 300 + ".jpeg", "x" * 70 + "….jpeg"),
    ],
)
def test_names_are_only_shown(given, shown):
    assert safe_name(given) == shown


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"no picture at all", "not an image of a known kind"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image of a known kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image of a known kind"),
        (b"x" * 1_000_001, "more than the 0 MiB allowed"),
    ],
)
def test_what_is_no_photo_is_refused_and_not_kept(sessions, data, says):
    session = sessions.get("a")
    with pytest.raises(PhotoError, match=says) as refused:
        store_photo(session, data, "../me.png", **LIMITS)
    assert str(session.folder) not in str(refused.value)
    assert str(refused.value).startswith("me.png")
    assert list(session.folder.iterdir()) == []


def test_a_bomb_is_refused_before_it_unpacks(sessions, bomb):
    begin = time.perf_counter()
    with pytest.raises(PhotoError, match="more pixels than the 1,000,000 allowed"):
        store_photo(sessions.get("a"), bomb.read_bytes(), "bomb.png", **LIMITS)
    assert time.perf_counter() - begin < 5


def test_content_decides_not_the_name(sessions, tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.webp")
    stored, opened = store_photo(sessions.get("a"), (tmp_path / "a.webp").read_bytes(), "a.exe", **LIMITS)
    assert opened.image.size == stored.size == (64, 64)


def test_what_a_killed_studio_left_is_swept_up(tmp_path):
    begin = "import sys; from pathlib import Path; from idpersona.app.sessions import *; "
    make = "Sessions(root=Path(sys.argv[1])).get('a').new_path('.png')[1].write_bytes(b'x')"
    left, alive, young, link = (tmp_path / f"{PREFIX}{name}" for name in ("left", "alive", "young", "link"))
    for folder in (left, alive, young):
        folder.mkdir()
    link.symlink_to(tmp_path / "nowhere")
    killed = f"{begin}{make}; import os; os._exit(1)"
    assert subprocess.run([sys.executable, "-c", killed, str(left)], check=False).returncode == 1
    running = Sessions(root=alive)
    try:
        for folder in (left, alive):
            os.utime(folder, (time.time() - YOUNG - 1,) * 2)
        _sweep(tmp_path)
        assert not left.exists()
        assert alive.exists()
        assert young.exists()
    finally:
        running.close()


def test_a_key_is_known_by_who_issued_it(sessions, tmp_path):
    (tmp_path / "other").mkdir()
    other = Sessions(root=tmp_path / "other")
    key = sessions.issue()
    assert sessions.issued(key)
    assert not other.issued(key)
    name, _, signature = key.partition(".")
    for wrong in (name, f"x{key}", f"{name}.", f"{name}.{signature[:-1]}x", "", ".", "é.x"):
        assert not sessions.issued(wrong)
    other.close()


def test_who_takes_most_of_the_room_gives_some_back(tmp_path):
    (tmp_path / "root").mkdir()
    sessions = Sessions(most=4, root=tmp_path / "root")
    for number in range(4):
        sessions.get(str(number), "many")
    with pytest.raises(BadInput, match="4 people use"):
        sessions.get("4", "many")
    sessions.get("guest", "another")
    assert sessions.find("0") is None
    assert sessions.find("guest") is not None
    sessions.close()


def test_a_session_whose_job_runs_is_in_use(sessions):
    busy, idle = sessions.get("busy"), sessions.get("idle")
    busy.used -= 11
    idle.used -= 11
    assert sessions.expire({"busy", "gone"}) == 1
    assert sessions.find("busy") is busy
    assert sessions.find("idle") is None


def test_what_is_written_while_a_session_is_removed_goes_later(sessions, monkeypatch):
    from idpersona.app import sessions as module

    session = sessions.get("a")
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "rmtree", lambda *_, **__: None)
        sessions.remove("a")
    assert session.folder.exists()
    sessions.expire()
    assert not session.folder.exists()


def test_identities_may_not_fill_the_memory(sessions, monkeypatch):
    from idpersona.app import sessions as module

    session, me = sessions.get("a"), read_identity("sample:astronaut")
    stored = session.add_identity(me, "me")
    monkeypatch.setattr(module, "IDENTITY_BYTES", stored.path.stat().st_size + 10)
    with pytest.raises(BadInput, match="MiB of identities"):
        session.add_identity(me, "me")
    assert list(session.folder.iterdir()) == [stored.path]


def test_a_disc_is_never_filled(sessions, photo, monkeypatch):
    from idpersona.app import sessions as module

    monkeypatch.setattr(module, "RESERVE", 1 << 62)
    with pytest.raises(BadInput, match="disc is nearly full"):
        store_photo(sessions.get("a"), photo.read_bytes(), "a.jpg", **LIMITS)

"""Building: what lies in a dataset; the same whatever reads it, however often it is ended; parts joined."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idpersona.encoders import get_encoder
from idpersona.encoders.base import FaceEncoder
from idpersona.images import open_photo
from idpersona.testing.command import Run
from idpersona.training.data.builder import chunks
from idpersona.training.data.builder.vectors import read_rows

from .conftest import contents, jpeg

# The synthetic people look alike; their photos lie nearer to each other than to anybody's.
SAME = ("--same-person", 0.35, "--min-side", 200)


def rows(folder: Path, name: str = "metadata.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of four photos, so that twelve are three."""
    monkeypatch.setattr(chunks, "CHUNK", 4)


@pytest.fixture(scope="module")
def built(small_photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of the small photos, by one process."""
    from idpersona.cli.main import main

    place = tmp_path_factory.mktemp("built") / "set"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK", 4)
        assert main([str(word) for word in ("dataset", "build", small_photos, "-o", place, *SAME)]) == 0
    return place


def test_what_lies_in_a_dataset(built: Path, small_photos: Path) -> None:
    table = rows(built)
    assert [row["file_name"] for row in table] == [
        f"images/{path.name}" for path in sorted(small_photos.glob("*.png")) if path.name[:2] != "07"
    ]
    for row in table:
        picture = built / row["file_name"]
        assert picture.stat().st_ino == (small_photos / picture.name).stat().st_ino  # a second name, no copy
        x0, y0, x1, y1 = row["bbox"]
        points = np.array(row["landmarks"])
        assert (
            points.shape == (5, 2) and (points > [x0 - 5, y0 - 5]).all() and (points < [x1 + 5, y1 + 5]).all()
        )
        assert (row["width"], row["height"], row["faces"]) == (230, 230, 1)
        assert row["face_area"] == pytest.approx((x1 - x0) * (y1 - y0) / 230**2, abs=1e-3)
        assert (row["consent"], row["licence"], row["caption"]) == (False, "", "a photo of a person")
    people = {row["identity"] for row in table}
    assert people == {f"person-00000{number}" for number in (1, 2, 3, 4)}
    assert all(row["identity"][-1] == row["file_name"][-5] for row in table)
    pairs = rows(built, "pairs.jsonl")
    of = {row["file_name"]: row["identity"] for row in table}
    assert len(pairs) == 3 * 6 + 2
    assert all(of[p["reference"]] == of[p["target"]] == p["identity"] and p["distance"] < 0.35 for p in pairs)
    assert rows(built, "rejected.jsonl") == [
        {"file": "07-person-4.png", "rule": "caption", "reason": "no caption"}
    ]


def test_embeddings_are_those_of_the_photos(built: Path) -> None:
    table = rows(built)
    encoder = get_encoder("dlib")
    assert isinstance(encoder, FaceEncoder)
    pattern = f"embeddings-dlib-{encoder.weights_sha256[:12]}-*.safetensors"
    vectors = read_rows(built, pattern, [row["sha256"] for row in table])["embeddings"]
    assert vectors.shape == (11, 128) and vectors.dtype == np.float32
    photo = open_photo(built / table[0]["file_name"])
    assert np.array_equal(vectors[0], encoder.embed(photo, encoder.detect(photo)[0]))


def test_the_report_needs_nothing_else(built: Path) -> None:
    page = (built / "report.html").read_text()
    assert "11 of 12 photos kept, 4 people" in page
    pictures = re.findall(r'<img alt="([^"]+)" src="data:image/jpeg;base64,[^"]+">', page)
    assert len(pictures) == 12 and "Rejected photo 07-person-4.png: no caption" in pictures
    assert page.count("<svg role=") == 3
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_image_folders_of_datasets_load_it(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra train is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    loaded = datasets.load_dataset("imagefolder", data_dir=str(built), split="train")
    assert loaded.column_names[0] == "image" and loaded["identity"][:] == [r["identity"] for r in rows(built)]
    assert np.array_equal(
        np.asarray(loaded[0]["image"]), np.asarray(open_photo(built / rows(built)[0]["file_name"]))
    )


def test_two_processes_make_the_same(built: Path, small_photos: Path, tmp_path: Path, run: Run) -> None:
    run("dataset", "build", small_photos, "-o", tmp_path / "set", *SAME, "--workers", 2).done()
    assert contents(tmp_path / "set") == contents(built)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


SCRIPT = """
import sys
from idpersona.cli.main import main
from idpersona.training.data.builder import chunks
chunks.CHUNK = 4
sys.exit(main(sys.argv[1:]))
"""


def test_killed_in_the_middle_it_goes_on(built: Path, small_photos: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", SCRIPT, "dataset", "build", str(small_photos), "-o", str(tmp_path / "set")]
    words += [str(word) for word in SAME]
    work = tmp_path / "set.partial" / "chunks"
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (work / "0000000").is_dir():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "set").exists()
    while _alive(process.pid):  # those that it started end by themselves
        assert time.monotonic() < deadline
        time.sleep(0.05)
    done = len([path for path in work.iterdir() if path.name.isdigit()])
    assert 0 < done < 3
    (work / "0000002.part1").mkdir()  # what is half done does not count
    (work / "0000002.part1" / "records.jsonl").write_text("{}\n")
    again = subprocess.run(words, capture_output=True, text=True, check=True)
    assert f"note: {4 * done} photos were finished before and are kept" in again.stderr
    assert contents(tmp_path / "set") == contents(built)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_parts_of_many_machines_are_the_same_dataset(
    built: Path, small_photos: Path, tmp_path: Path, run: Run
) -> None:
    parts = [tmp_path / f"part-{number}" for number in (1, 2)]
    for number, part in enumerate(parts, start=1):
        words = (*SAME, "--shard", f"{number}/2")
        assert "merge" in run("dataset", "build", small_photos, "-o", part, *words).done().out
    run("dataset", "merge", parts[0], "-o", tmp_path / "set").refused("part 2 of 2 is missing")
    run("dataset", "merge", parts[0], parts[0], "-o", tmp_path / "set").refused("2 parts of a build")
    run("dataset", "merge", built, parts[0], "-o", tmp_path / "set").refused("is no part of a build")
    run("dataset", "merge", parts[1], parts[0], "-o", tmp_path / "set").done()
    assert contents(tmp_path / "set") == contents(built)
    run("dataset", "merge", *parts, "-o", tmp_path / "set", "--pairs-per-photo", 1).refused("--force")
    run("dataset", "merge", *parts, "-o", tmp_path / "set", "--pairs-per-photo", 1, "--force").done()
    assert len(rows(tmp_path / "set", "pairs.jsonl")) == 11
    run_file = parts[0] / "run.json"
    run_file.write_text(run_file.read_text().replace('"min_side": 200', '"min_side": 100'))
    run("dataset", "merge", *parts, "-o", tmp_path / "other").refused("parts of different builds: reading")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["part-1", "part-2", "set"]


def one_photo(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(open_photo("sample:person-3")))
    return folder


SMALL = ("--min-side", 100, "--caption", "any")


def test_nothing_finished_is_overwritten_unasked(tmp_path: Path, run: Run) -> None:
    photos = one_photo(tmp_path / "photos")
    place = tmp_path / "set"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    run("dataset", "build", photos, "-o", tmp_path / "mine", "--force").refused("holds no dataset")
    run("dataset", "build", photos, "-o", photos / "set").refused("lies in the source")
    run("dataset", "build", photos, "-o", tmp_path / "no" / "set").refused("does not exist")
    run("dataset", "build", photos, "-o", place, *SMALL).done()
    before = contents(place)
    run("dataset", "build", photos, "-o", place, *SMALL).refused("is finished", "--force")
    assert contents(place) == before
    run("dataset", "build", photos, "-o", place, *SMALL, "--force", "--licence", "CC0").done()
    assert rows(place)[0]["licence"] == "CC0"


def test_what_another_build_left_is_not_gone_on_with(tmp_path: Path, run: Run) -> None:
    photos = one_photo(tmp_path / "photos")
    left = tmp_path / "set.partial"
    left.mkdir()
    (left / "mine.txt").write_text("dear")
    run("dataset", "build", photos, "-o", tmp_path / "set", *SMALL).refused("holds mine.txt and no build")
    (left / "mine.txt").unlink()
    (left / "run.json").write_text('{"reading": {"min_side": 300}}')
    refused = run("dataset", "build", photos, "-o", tmp_path / "set", *SMALL)
    refused.refused("left by a build with other settings", "--force")
    run("dataset", "build", photos, "-o", tmp_path / "set", *SMALL, "--force").done()
    assert len(rows(tmp_path / "set")) == 1 and not left.exists()


def test_consent_licence_and_source_are_kept(tmp_path: Path, run: Run) -> None:
    photos = tmp_path / "photos.tar"
    with tarfile.open(photos, "w") as tar:
        for name, said in (
            ("yes", {"consent": True, "license": "CC-BY-4.0", "url": "https://example.org/yes"}),
            ("no", {"consent": False}),
            ("mute", {}),
        ):
            number = {"yes": 1, "no": 2, "mute": 3}[name]
            picture = jpeg(open_photo(f"sample:person-{number}"))
            for end, data in (("jpg", picture), ("json", json.dumps(said).encode())):
                member = tarfile.TarInfo(f"{name}.{end}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    words = (*SMALL, "--require-consent", "--licence", "unknown")
    run("dataset", "build", photos, "-o", tmp_path / "set", *words).done()
    (row,) = rows(tmp_path / "set")
    said = {k: row[k] for k in ("file_name", "consent", "licence", "source")}
    assert said == {
        "file_name": "images/photos/yes.jpg",
        "consent": True,
        "licence": "CC-BY-4.0",
        "source": "https://example.org/yes",
    }
    assert {r["file"]: r["reason"] for r in rows(tmp_path / "set", "rejected.jsonl")} == {
        "photos/no.jpg": "no consent",
        "photos/mute.jpg": "no consent",
    }
    assert (tmp_path / "set" / "images" / "photos" / "yes.jpg").is_file()
    assert not (tmp_path / "set" / "images" / "photos" / "no.jpg").exists()
    assert 'alt="Rejected' not in (tmp_path / "set" / "report.html").read_text()


def test_links_denied_people_and_pictures_as_they_are(tmp_path: Path, run: Run, monkeypatch) -> None:
    monkeypatch.setenv("IDPERSONA_PEOPLE", str(tmp_path / "people.safetensors"))
    photos = tmp_path / "photos"
    photos.mkdir()
    open_photo("sample:astronaut").save(photos / "denied.png")
    # Turned on its side, and said so: landmarks and sizes are those of the upright picture.
    sample = open_photo("sample:person-3").resize((256, 256)).crop((0, 0, 256, 250))
    exif = Image.Exif()
    exif[274] = 6
    sample.transpose(Image.Transpose.ROTATE_90).save(photos / "turned.jpg", exif=exif)
    run("people", "add", "Eileen", photos / "denied.png").done()
    run("dataset", "build", photos, "-o", tmp_path / "set", *SMALL, "--face-area", 0.01, "--link").done()
    (row,) = rows(tmp_path / "set")
    picture = tmp_path / "set" / row["file_name"]
    assert picture.is_symlink() and picture.resolve() == photos / "turned.jpg"
    assert (row["width"], row["height"]) == (256, 250)
    (refused,) = rows(tmp_path / "set", "rejected.jsonl")
    assert refused["rule"] == "people" and "'Eileen', who is on the deny list" in refused["reason"]
    about = json.loads((tmp_path / "set" / "dataset.json").read_text())
    assert len(about["people_registry"]["sha256"]) == 64


def test_bad_options_are_one_line(tmp_path: Path, run: Run) -> None:
    photos = one_photo(tmp_path / "photos")
    for words, said in (
        (("--workers", 0), "--workers"),
        (("--faces", "three"), "--faces"),
        (("--shard", "3/2"), "--shard"),
        (("--encoder", "dlibb"), "dlib"),
        (("--encoder", "dinov2", "--same-person", 0.3), "does not read faces"),
        (("--encoder", "mini-vit", "--same-person", 0.3), "does not tell people apart"),
        (("--encoder", "antelopev2"), "--same-person"),
    ):
        run("dataset", "build", photos, "-o", tmp_path / "set", *words).refused(said)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.parametrize("command", ["", "build", "merge", "check", "cache"])
def test_help_has_an_example(run: Run, command: str) -> None:
    out = run("dataset", *command.split(), "--help").done().out
    assert "Example: idpersona dataset" in out

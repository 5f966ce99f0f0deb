"""Folders, tar shards and datasets: the same photos and captions from each, and what is wrong with them."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from idpersona.errors import BadInput, PhotoError, UnknownName
from idpersona.training.data.builder.opening import find_kind, open_source
from idpersona.training.data.builder.settings import BuildSettings
from idpersona.training.data.builder.source import Source, caption_of

from .conftest import jpeg


def picture(seed: int = 0, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (40, 40), (seed * 20, 90, 90)).save(stream, kind)
    return stream.getvalue()


def opened(place: Path | str, **changed: object) -> Source:
    return open_source(BuildSettings(source=str(place), **changed))  # type: ignore[arg-type]


def captions(source: Source, column: str = "") -> dict[str, str]:
    photos = [source.read(index) for index in range(len(source))]
    return {photo.name: caption_of(photo.columns, column) for photo in photos}


def write_tar(path: Path, *members: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def test_captions_beside_the_pictures(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    for name in ("b.jpg", "a.PNG", "more/c.jpeg", ".hidden.jpg"):
        (tmp_path / name).write_bytes(picture())
    (tmp_path / "notes.pdf").write_text("no picture")
    (tmp_path / "b.txt").write_text(" a man\n")
    (tmp_path / "a.json").write_text('{"caption": "a woman", "licence": "CC0", "consent": true}')
    source = opened(tmp_path)
    assert source.kind == "folder"
    assert captions(source) == {"a.PNG": "a woman", "b.jpg": "a man", "more/c.jpeg": ""}
    assert source.read(0).columns["licence"] == "CC0"
    assert source.read(0).picture == tmp_path / "a.PNG"
    assert captions(pickle.loads(pickle.dumps(source))) == captions(source)


@pytest.mark.parametrize("table", ["metadata.jsonl", "metadata.csv"])
def test_tables_of_image_folders(tmp_path: Path, table: str) -> None:
    (tmp_path / "train").mkdir()
    for name in ("train/a.jpg", "train/b.jpg", "c.jpg"):
        (tmp_path / name).write_bytes(picture())
    rows = [{"file_name": "a.jpg", "text": "a man"}, {"file_name": "gone.jpg", "text": "a boy"}]
    lines = (
        [json.dumps(row) for row in rows]
        if table.endswith("l")
        else ["file_name,text", "a.jpg,a man", "gone.jpg,a boy"]
    )
    (tmp_path / "train" / table).write_text("\n".join(lines) + "\n")
    (tmp_path / "train" / "a.txt").write_text("not asked for")
    (tmp_path / "train" / "b.txt").write_text("a girl")
    source = opened(tmp_path)
    found = {"c.jpg": "", "train/a.jpg": "a man", "train/b.jpg": "a girl", "train/gone.jpg": "a boy"}
    assert captions(source) == found
    assert captions(source, "text")["train/b.jpg"] == ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "metadata.jsonl line 2 is no JSON"),
        ("[]", "metadata.jsonl line 2 holds no JSON object"),
        ("{}", "line 2 has no file_name"),
        ('{"file_name": "../a.jpg"}', "lies outside"),
        ('{"file_name": "a.jpg"}', "has a row already"),
    ],
)
def test_damaged_tables_name_the_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "a.jpg").write_bytes(picture())
    (tmp_path / "metadata.jsonl").write_text(f'{{"file_name": "a.jpg"}}\n{line}\n')
    with pytest.raises(BadInput, match=words):
        opened(tmp_path)


def test_damaged_metadata_of_one_photo_are_its_own_affair(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(picture())
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xfa")
    source = opened(tmp_path)
    for index in (0, 1):
        with pytest.raises(PhotoError, match="cannot be read"):
            source.read(index)


def test_tar_shards_may_mix_kinds_and_lack_captions(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "b.tar",
        ("x.jpg", picture(1)),
        ("x.txt", b"a man"),
        ("y.png", picture(2, "PNG")),
        ("z.json", b'{"caption": "a girl"}'),
        ("z.jpg", picture(3)),
        ("deep/er.v2.jpg", picture(4)),
        ("w.json", b"{"),
        ("w.jpg", picture(5)),
        ("alone.txt", b"a caption without a picture"),
        ("../../out.jpg", picture(6)),
        ("x.jpg", picture(7)),
    )
    write_tar(tmp_path / "a.tar", ("x.jpg", picture(8)))
    source = opened(tmp_path)
    assert source.kind == "webdataset"
    names = [source.name(index) for index in range(len(source))]
    assert names == ["a/x.jpg", "b/x.jpg", "b/y.png", "b/z.jpg", "b/deep/er.v2.jpg", "b/w.jpg", "b/x~2.jpg"]
    found = [source.read(index) for index in (0, 1, 2, 3)]
    assert [photo.picture for photo in found] == [picture(8), picture(1), picture(2, "PNG"), picture(3)]
    assert [caption_of(photo.columns, "") for photo in found] == ["", "a man", "", "a girl"]
    with pytest.raises(PhotoError, match="cannot be read"):
        source.read(5)
    assert opened(tmp_path / "b.tar").name(0) == "b/x.jpg"
    assert pickle.loads(pickle.dumps(source)).read(1) == source.read(1)


def test_archives_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no archive" * 200)
    with pytest.raises(BadInput, match="damaged"):
        opened(tmp_path)
    write_tar(tmp_path / "plain", ("x.jpg", picture()))
    (tmp_path / "a.tar").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
    with pytest.raises(BadInput, match="gunzip"):
        opened(tmp_path / "a.tar")


def test_places_tell_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no"):
        find_kind(BuildSettings(source=str(tmp_path / "nowhere")))
    with pytest.raises(BadInput, match="holds no photos"):
        opened(tmp_path)
    (tmp_path / "a.jpg").write_bytes(picture())
    with pytest.raises(BadInput, match="one file"):
        opened(tmp_path / "a.jpg")
    assert find_kind(BuildSettings(source="owner/name")) == "datasets"
    write_tar(tmp_path / "b.tar", ("x.jpg", picture()))
    with pytest.raises(BadInput, match="folder and webdataset: say which with --format"):
        opened(tmp_path)
    assert len(opened(tmp_path, kind="folder")) == len(opened(tmp_path, kind="webdataset")) == 1
    with pytest.raises(BadInput, match="--link"):
        opened(tmp_path, kind="webdataset", link=True)


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A dataset of four rows: a photo, a damaged one, none, and a PNG without a name."""
    datasets = pytest.importorskip("datasets", reason="the extra train is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [
        {"bytes": picture(1), "path": "one.jpg"},
        {"bytes": jpeg(Image.new("RGB", (40, 40)))[:90], "path": "two.jpg"},
        None,
        {"bytes": picture(4, "PNG"), "path": None},
    ]
    columns = {"image": pictures, "text": ["a man", "a woman", "a boy", None], "other": [1, 2, 3, 4]}
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "other": datasets.Value("int64")}
    )
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize("stored", ["parquet", "disk", "splits"])
def test_datasets(tmp_path: Path, rows, stored: str) -> None:
    place = tmp_path / "set"
    if stored == "parquet":
        place.mkdir()
        rows.to_parquet(place / "part-0.parquet")
    elif stored == "disk":
        rows.save_to_disk(place)
    else:
        import datasets

        datasets.DatasetDict({"train": rows, "test": rows.select([0])}).save_to_disk(place)
        assert len(opened(place, split="test")) == 1
        with pytest.raises(UnknownName, match="test"):
            opened(place, split="tests")
    source = pickle.loads(pickle.dumps(opened(place)))
    assert source.kind == "datasets" and len(source) == 4
    one, last = source.read(0), source.read(3)
    assert (one.name, one.picture, caption_of(one.columns, "")) == ("00000000.jpg", picture(1), "a man")
    assert (last.name, last.picture, caption_of(last.columns, "")) == ("00000003.png", picture(4, "PNG"), "")
    assert isinstance(source.read(1).picture, bytes)  # opened later, and refused there
    with pytest.raises(PhotoError, match="no picture"):
        source.read(2)
    with pytest.raises(UnknownName, match="text"):
        opened(place, caption_column="texts")
    with pytest.raises(UnknownName, match="image"):
        opened(place, image_column="picture")


def test_datasets_that_cannot_be_read(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="the extra train is not installed")
    (tmp_path / "a.parquet").write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read by datasets"):
        opened(tmp_path)

"""Protocols: fixed people, fixed references, clear refusals; and photos out of tar files."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from idpersona.errors import BadInput, MissingWeights, PhotoError
from idpersona.eval.protocol import Protocol
from idpersona.training.data.archives import PhotoStore, attribute_labels


def test_shipped_protocol_asks_in_words_the_captions_use() -> None:
    from idpersona.training.data.captions import caption

    protocol = Protocol.load("standard")
    assert protocol.people >= 100 and protocol.steps == 25 and protocol.gallery == 32
    assert 2 * protocol.prompts.seeds == 400
    rng, said = np.random.default_rng(0), set()
    for _ in range(3000):
        faces = {name: bool(rng.random() < 0.5) for name in (*protocol.prompts.attributes, "Gray_Hair")}
        said |= set(caption(faces, rng).replace(",", "").split())
    for name, pair in protocol.prompts.attributes.items():
        assert len(set(pair)) == 2
        assert set(" ".join(pair).replace(",", "").split()) <= said, name
    assert set(protocol.prompts.with_identity) <= set(protocol.prompts.attributes)


def test_methods_are_compared_on_a_part_of_the_standard_protocol() -> None:
    whole, part = Protocol.load("standard"), Protocol.load("methods")
    kept = whole.prompts.with_identity
    assert part.scales == (1.0,) and tuple(part.prompts.attributes) == kept
    attributes = {name: whole.prompts.attributes[name] for name in kept}
    prompts = whole.prompts.model_copy(
        update={"attributes": attributes, "seeds": whole.prompts.identity_seeds}
    )
    assert part == whole.model_copy(update={"name": "methods", "scales": (1.0,), "prompts": prompts})


def test_shipped_protocol_finds_its_people() -> None:
    protocol = Protocol.load("standard")
    candidates = protocol.candidates()
    assert len(candidates) >= protocol.people
    names = [name for name, _, _ in candidates]
    assert len(set(names)) == len(names)
    assert sum(reference.startswith("celeba_wild") for _, reference, _ in candidates) >= 30
    assert len(protocol.split_sha256()) == 64


def test_reference_is_never_among_the_others_and_order_is_stable(protocol: Protocol) -> None:
    candidates = protocol.candidates()
    assert len(candidates) == 5
    for _, reference, others in candidates:
        assert reference not in others and len(others) == protocol.max_others
    assert candidates == protocol.candidates()
    fewer = protocol.changed(min_photos=4, max_others=3).candidates()
    assert [c[:2] for c in fewer] == [c[:2] for c in candidates]
    assert [c[0] for c in protocol.changed(seed=1).candidates()] != [c[0] for c in candidates]


def test_a_changed_protocol_says_so(protocol: Protocol) -> None:
    assert protocol.changed() is protocol
    assert protocol.changed(steps=9, people=4).name == "tiny+people+steps"
    assert protocol.quick().name == "tiny-quick" and protocol.quick().people <= protocol.people
    with pytest.raises(BadInput, match="steps"):
        protocol.changed(steps=0)
    with pytest.raises(BadInput, match="scales"):
        protocol.changed(scales=(0.5, float("nan")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"people": 1}, "people"),
        ({"stepps": 3}, "stepps"),
        ({"guidance": -1}, "guidance"),
        ({"prompts": {"attributes": {}}}, "prompts.attributes"),
        ({"seed": -1}, "seed"),
        ({"size": 100}, "size"),
        ({"pose": {"smallest": 2, "largest": 1}}, "smallest"),
    ],
)
def test_a_wrong_field_is_named(faces_folder: Path, tmp_path: Path, change: dict, message: str) -> None:
    fields = json.loads((faces_folder / "tiny.protocol.json").read_text()) | change
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(BadInput, match=message):
        Protocol.load(path)


def test_missing_and_broken_files_are_one_line(tmp_path: Path, protocol: Protocol) -> None:
    with pytest.raises(BadInput, match="known protocols: methods, standard"):
        Protocol.load("nothing")
    broken = tmp_path / "broken.json"
    broken.write_bytes(b"\xff\xfe{")
    with pytest.raises(BadInput, match=r"broken\.json"):
        Protocol.load(broken)
    with pytest.raises(BadInput, match="not found"):
        protocol.changed(split="nowhere.json").candidates()
    other = tmp_path / "split.json"
    other.write_text("[]")
    with pytest.raises(BadInput, match="no part 'validation'"):
        protocol.changed(split=str(other)).candidates()


def test_photos_come_out_of_the_tar_as_they_went_in(store: PhotoStore, faces_folder: Path) -> None:
    assert len(store) == 20
    photo = store.open("lfw_160/P1/P1_0002.png")
    with tarfile.open(faces_folder / "faces_lfw.tar") as tar:
        member = tar.extractfile("lfw_160/P1/P1_0002.png")
        assert member is not None
        from PIL import Image

        assert Image.open(member).convert("RGB").tobytes() == photo.tobytes()
    with pytest.raises(PhotoError, match="none of the archives"):
        store.open("lfw_160/P9/P9_0001.png")


def test_labels_leave_out_what_nobody_labelled(faces_folder: Path) -> None:
    labels = attribute_labels(faces_folder)
    assert labels["lfw_160/P1/P1_0000.png"] == {"Smiling": True, "Male": False}


def test_missing_data_says_how_to_set_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDPERSONA_DATA", str(tmp_path / "none"))
    with pytest.raises(MissingWeights, match=r"none.*IDPERSONA_DATA"):
        PhotoStore()
    with pytest.raises(MissingWeights, match=r"faces_lfw\.tar.*IDPERSONA_DATA"):
        PhotoStore(tmp_path, ("lfw",))
    with pytest.raises(MissingWeights, match="IDPERSONA_DATA"):
        attribute_labels(tmp_path)

"""A small copy of the photo archives, drawn here, and tiny runs trained on it.

The layout is that of the real archives: tar files, names, picture sizes, ``faces.csv.gz``. Keys of held-out
people and names of dropped photos are taken from the committed split, so that it applies as it is.
"""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from idpersona.training.data.captions import _WEARING, _WITH
from idpersona.training.data.split import load_split
from idpersona.training.run import run_recipe

SIZES = {"celeba_wild": (192, 192), "lfw": (160, 160), "celeba_aligned": (89, 109)}
TARS = {"celeba_wild": "faces_wild.tar", "lfw": "faces_lfw.tar", "celeba_aligned": "faces_aligned.tar"}
NAMES = ("Male", "Smiling", "Young", "Blond_Hair", "Black_Hair", "Blurry", "No_Beard", *_WITH, *_WEARING)
FACE = np.array([[0.36, 0.45], [0.64, 0.45], [0.50, 0.58], [0.40, 0.72], [0.60, 0.72]])


@pytest.fixture
def set_clock() -> Callable[[pytest.MonkeyPatch, Callable[[], float]], None]:
    """Set ``time.time`` of this thread alone: others, as those of a server, would use the ticks up."""

    def call(patch: pytest.MonkeyPatch, now: Callable[[], float]) -> None:
        real, mine = time.time, threading.current_thread()
        patch.setattr("time.time", lambda: now() if threading.current_thread() is mine else real())

    return call


@dataclass
class Archives:
    """What was drawn: one entry per photo, in the order of the table."""

    root: Path
    files: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    people: list[str] = field(default_factory=list)
    attributes: list[dict[str, int]] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    descriptors: list[np.ndarray] = field(default_factory=list)
    pictures: list[Image.Image] = field(default_factory=list)

    def rows(self, source: str) -> list[int]:
        return [i for i, s in enumerate(self.sources) if s == source]


def draw_face(size: tuple[int, int], attributes: dict[str, int], rng: np.random.Generator):
    """A face-like picture and its five points [5, 2] in pixels."""
    width, height = size
    points = (FACE + rng.normal(0, 0.01, (5, 2))) * [width, height]
    picture = Image.new("RGB", size, tuple(int(c) for c in rng.integers(90, 200, 3)))
    pen = ImageDraw.Draw(picture)
    hair = (220, 190, 90) if attributes.get("Blond_Hair") == 1 else (40, 30, 25)
    pen.ellipse((0.2 * width, 0.1 * height, 0.8 * width, 0.75 * height), fill=hair)
    pen.ellipse((0.25 * width, 0.22 * height, 0.75 * width, 0.9 * height), fill=(215, 170, 140))
    for x, y in points[:2]:
        pen.ellipse((x - 5, y - 3, x + 5, y + 3), fill="white")
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill="black")
        if attributes.get("Eyeglasses") == 1:
            pen.rectangle((x - 11, y - 8, x + 11, y + 8), outline="black", width=2)
    pen.line([tuple(points[2] - [0, 12]), tuple(points[2])], fill=(150, 100, 80), width=3)
    pen.line([tuple(points[3]), tuple(points[4])], fill=(180, 40, 40), width=4)
    return picture, points.astype(np.float32)


def _add_person(drawn: Archives, source: str, person: str, files: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    centre = rng.normal(0, 0.1, 128)
    values = {name: int(rng.random() < 0.4) for name in NAMES}
    if source == "lfw":
        values = {"Male": values["Male"]}
    for file in files:
        picture, points = draw_face(SIZES[source], values, rng)
        drawn.files.append(file)
        drawn.sources.append(source)
        drawn.people.append(person)
        drawn.attributes.append(values)
        drawn.keypoints.append(points)
        drawn.descriptors.append((centre + rng.normal(0, 0.01, 128)).astype(np.float32))
        drawn.pictures.append(picture)


def _write(drawn: Archives) -> None:
    for source, name in TARS.items():
        with tarfile.open(drawn.root / name, "w") as archive:
            folder = tarfile.TarInfo(f"./{source}")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for row in reversed(drawn.rows(source)):  # the table's order is not the archive's
                stream = io.BytesIO()
                drawn.pictures[row].save(stream, "PNG")
                member = tarfile.TarInfo(f"./{drawn.files[row]}")
                member.size = stream.tell()
                stream.seek(0)
                archive.addfile(member, stream)
    with gzip.open(drawn.root / "faces.csv.gz", "wt", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "source", "identity", *NAMES])
        for file, source, person, values in zip(
            drawn.files, drawn.sources, drawn.people, drawn.attributes, strict=True
        ):
            writer.writerow([file, source, person, *(values.get(name, "") for name in NAMES)])


@pytest.fixture(scope="session")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archives]:
    """The archives, with ``IDPERSONA_DATA`` and ``IDPERSONA_CACHE`` set; the cache is filled by ``cache``."""
    drawn = Archives(tmp_path_factory.mktemp("archives"))
    split = load_split()
    held_out = [p for p, files in split.validation.items() if not p.startswith("lfw:") and len(files) > 1]
    for number in range(4):
        files = [f"celeba_wild_192/w{number}/{k}.png" for k in range(4)]
        _add_person(drawn, "celeba_wild", f"w{number}", files, number)
    for number, person in enumerate(held_out[:3]):
        files = [f"celeba_wild_192/{person}/{k}.png" for k in range(2)]
        _add_person(drawn, "celeba_wild", person, files, 100 + number)
    for number in range(3):
        files = [f"lfw_160/l{number}/{k}.png" for k in range(1 + number)]
        _add_person(drawn, "lfw", f"lfw:l{number}", files, 200 + number)
    for number in range(5):
        _add_person(
            drawn, "celeba_aligned", f"a{number}", [f"celeba_aligned_89x109/a{number}.png"], 300 + number
        )
    _add_person(drawn, "celeba_aligned", "look-alike", [min(split.dropped)], 400)
    _write(drawn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDPERSONA_DATA", str(drawn.root))
        patch.setenv("IDPERSONA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield drawn


@pytest.fixture(scope="session")
def cache(archives: Archives) -> Path:
    """The prepared cache: dlib cannot see drawn faces, so what it would have found is put in their place."""
    from idpersona.training.data.faces import SOURCES, cache_root
    from idpersona.training.data.prepare import fingerprint, prepare

    for source in SOURCES:
        rows = archives.rows(source)
        found = np.ones(len(rows), bool)
        if source == "lfw":
            found[0] = False  # lfw:l0 has no other photo
        np.savez(
            cache_root() / f"{source}.faces.npz",
            keypoints=np.stack([archives.keypoints[r] for r in rows]),
            descriptors=np.stack([archives.descriptors[r] for r in rows]),
            found=found,
            made_of=np.array(fingerprint([archives.files[r] for r in rows])),
        )
    return prepare(workers=1)


def write_recipe(folder: Path, name: str, objective: dict, **top: object) -> Path:
    """A tiny recipe in float32; ``top`` adds or replaces keys of the recipe, ``loop`` those of its loop."""
    loop = {"steps": 3, "batch_size": 8, "precision": "no", "save_every": 2, "log_every": 1, "trackers": []}
    recipe = {
        "name": name,
        "objective": objective,
        "optimiser": {"lr": 0.001, "warmup_steps": 1},
        "output": str(folder / name),
        **top,
        "loop": loop | dict(top.get("loop", {})),  # type: ignore[call-overload]
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


VAE = {"kind": "autoencoder", "channels": 8, "latent_channels": 4}
VAE |= {"encoder_blocks": [0, 1, 1, 1], "decoder_blocks": [1, 1, 1, 1]}
DIFFUSION = {"kind": "diffusion", "channels": [32, 64], "text_width": 32, "text_layers": 1, "vocabulary": 600}


@pytest.fixture(scope="session")
def vae_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained tiny autoencoder's run."""
    return run_recipe(write_recipe(tmp_path_factory.mktemp("runs"), "mini-vae", VAE))


@pytest.fixture(scope="session")
def labeler_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained tiny attribute classifier's run."""
    objective = {"kind": "attributes", "half": 0, "widths": [8, 8, 8, 8]}
    return run_recipe(write_recipe(tmp_path_factory.mktemp("runs"), "labeler", objective))


@pytest.fixture(scope="session")
def diffusion_objective(vae_run: Path, labeler_run: Path) -> dict:
    """The objective's table of a tiny text-to-image recipe."""
    return DIFFUSION | {"vae": str(vae_run / "vae"), "labeler": str(labeler_run / "model")}


@pytest.fixture(scope="session")
def diffusion_run(diffusion_objective: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained tiny text-to-image model's run, with InstantID."""
    return run_recipe(write_recipe(tmp_path_factory.mktemp("runs"), "mini", diffusion_objective))


@pytest.fixture(scope="session")
def recipe_writer():
    """``write_recipe``."""
    return write_recipe


@pytest.fixture(scope="session")
def runs(vae_run, recipe_writer, tmp_path_factory):
    """Tiny runs of the networks that the adapters look through: name -> folder of the run."""
    folder = tmp_path_factory.mktemp("runs")
    vae = str(vae_run / "vae")
    vit = {"kind": "masked-autoencoder", "patch": 32, "width": 16, "layers": 1, "heads": 2}
    latent = {"kind": "latent-descriptor", "vae": vae, "widths": [8, 8, 8], "blocks": 1}
    made = {
        "vit": run_recipe(recipe_writer(folder, "mini-vit", vit)),
        "latent": run_recipe(recipe_writer(folder, "latent-descriptor", latent)),
    }
    style = {"kind": "style-autoencoder", "vae": vae, "rows": 6, "dim": 16, "widths": [8, 8, 8], "width": 16}
    style["latent_descriptor"] = str(made["latent"] / "model")
    made["style"] = run_recipe(recipe_writer(folder, "mini-style", style))
    return made


@pytest.fixture(scope="session")
def recipe_of(runs, diffusion_run, labeler_run, recipe_writer, tmp_path_factory):
    """Writes the tiny recipe of a method, with changes."""

    def write(method, *, init_from=None, loop=None, samples=None, **changes):
        own = {
            "instantid": {},
            "infinite-id": {"vit": str(runs["vit"] / "model"), "face_hidden": 16},
            "anymaker": {"vit": str(runs["vit"] / "model"), "hidden": 32},
            "wplus": {"style": str(runs["style"] / "encoder"), "stage": 1, "tokens": 2},
        }[method]
        objective = {
            "kind": method,
            "base": str(diffusion_run / "base"),
            "labeler": str(labeler_run / "model"),
            "latent_descriptor": str(runs["latent"] / "model"),
            "drawn_from": 0,
            **own,
            **changes,
        }
        folder = tmp_path_factory.mktemp(method)
        loop = loop or {"steps": 2}
        return recipe_writer(folder, method, objective, init_from=init_from, loop=loop, samples=samples)

    return write


@pytest.fixture(scope="session")
def trained(recipe_of):
    """Runs of two steps each, made when they are asked for."""
    made = {}

    def run(method):
        if method not in made:
            made[method] = run_recipe(recipe_of(method))
        return made[method]

    return run

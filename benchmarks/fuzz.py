"""Fuzz what strangers' files reach: identity files, photos, PNG settings and the people registry.

``python benchmarks/fuzz.py`` runs 10,000 mutated identity files and photo files through opening and
validation, 2,000 PNG settings and registry files, and 200 mutated photos through face detection and reading.
Whatever a mutation does, the result must be a value or one of our own errors, in one line, and nothing may be
written to standard error beside it; anything else is printed with the seed that makes it again, and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from idpersona.errors import IdPersonaError

INTERESTING = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    b"NaN",
    b"{",
    b"}",
    b'"',
)


def mutate(data: bytes, dice: random.Random, others: list[bytes]) -> bytes:
    """One to eight random changes: flipped bits, interesting bytes, cuts, repeats, parts of other files."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        if not out:
            break
        # Headers decide most, so that half of the changes fall into the first kilobyte.
        place = dice.randrange(min(len(out), 1024) if dice.random() < 0.5 else len(out))
        kind = dice.randrange(8)
        if kind == 0:
            out[place] ^= 1 << dice.randrange(8)
        elif kind == 1:
            out[place] = dice.randrange(256)
        elif kind == 2:
            word = dice.choice(INTERESTING)
            out[place : place + len(word)] = word
        elif kind == 3:
            out[place : place + dice.randint(1, 64)] = b""
        elif kind == 4:
            out[place:place] = out[place : place + dice.randint(1, 256)]
        elif kind == 5 and dice.random() < 0.3:
            del out[place:]
        elif kind == 6:
            other = dice.choice(others)
            start = dice.randrange(len(other))
            out[place : place + 32] = other[start : start + dice.randint(1, 128)]
        elif kind == 7:
            digits = [i for i in range(min(len(out), 4096)) if 48 <= out[i] <= 57]
            if digits:
                out[dice.choice(digits)] = 48 + dice.randrange(10)
    return bytes(out)


@dataclass
class Tally:
    """Counts of one kind of run; ``defects`` are exceptions that are not ours."""

    name: str
    runs: int = 0
    accepted: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    defects: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line for people."""
        refused = ", ".join(f"{kind} {count}" for kind, count in self.refused.most_common())
        state = f"{len(self.defects)} DEFECTS" if self.defects else "no uncaught exception, no stray output"
        return (
            f"{self.name}: {self.runs} files, {self.accepted} accepted, refused: {refused or 'none'}; {state}"
        )


@contextlib.contextmanager
def caught_stderr(path: Path) -> Iterator[Callable[[], str]]:
    """Yields what takes and returns all that was written to standard error so far, by C libraries, too."""
    kept = os.dup(2)
    with path.open("w+b", buffering=0) as file:
        os.dup2(file.fileno(), 2)

        def take() -> str:
            sys.stderr.flush()
            if not os.fstat(file.fileno()).st_size:
                return ""
            file.seek(0)
            text = file.read().decode("utf-8", "replace")
            file.seek(0)
            file.truncate()
            return text

        try:
            yield take
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def fuzz(
    name: str,
    seeds: list[bytes],
    suffix: str,
    judge: Callable[[Path], object],
    count: int,
    seed: int,
    folder: Path,
) -> Tally:
    """Run ``count`` mutations of ``seeds`` through ``judge``; number and ``seed`` make each again."""
    tally = Tally(name)
    path = folder / f"fuzz{suffix}"
    with caught_stderr(folder / "stderr.txt") as written:
        for number in range(count):
            dice = random.Random(f"{name} {seed} {number}")
            path.write_bytes(mutate(dice.choice(seeds), dice, seeds))
            tally.runs += 1
            which = f"{name} {number} (seed {seed})"
            try:
                judge(path)
                tally.accepted += 1
            except IdPersonaError as error:
                tally.refused[type(error).__name__] += 1
                if not str(error).strip() or "\n" in str(error) or "\x1b" in str(error):
                    tally.defects.append(f"{which}: message is not one clean line: {error!r}")
            except Exception:  # everything that is not ours is a finding
                tally.defects.append(f"{which}:\n{traceback.format_exc()}")
            if stray := written():
                tally.defects.append(f"{which}: wrote to standard error: {stray[:300]!r}")
    return tally


def photo_seeds(size: int = 96) -> list[bytes]:
    """The sample portrait in every format and mode that can be written here."""
    from idpersona.images import open_photo

    portrait = open_photo("sample:astronaut").crop((80, 0, 400, 320)).resize((size, size))
    seeds = []
    ways = [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA")]
    ways += [("PNG", "I;16"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("TIFF", "L")]
    ways += [("PPM", "RGB"), ("TGA", "RGB"), ("ICO", "RGB"), ("JPEG2000", "RGB"), ("AVIF", "RGB")]
    for kind, mode in ways:
        buffer = io.BytesIO()
        try:
            exif = Image.Exif()
            exif[0x0112] = 6
            extra = {"exif": exif} if kind in ("JPEG", "WEBP", "PNG") else {}
            portrait.convert(mode).save(buffer, kind, **extra)
        except (OSError, KeyError, ValueError):
            continue  # this build of Pillow cannot write it
        seeds.append(buffer.getvalue())
    frames = io.BytesIO()
    portrait.save(frames, "GIF", save_all=True, append_images=[portrait.rotate(90)])
    return [*seeds, frames.getvalue()]


def identity_seeds() -> list[bytes]:
    """Identity files with one and several features, with and without key points, merged by rows."""
    from idpersona.identity import Feature, Identity
    from idpersona.identity_file import to_bytes

    values = np.random.default_rng(0)
    face = Feature(
        "dlib", values.normal(size=(1, 128)).astype(np.float32), "0" * 64, "150 px chip", False, "CC0"
    )
    rows = Feature("antelopev2", values.normal(size=(3, 512)).astype(np.float32))
    points = np.array([[30, 40], [60, 40], [45, 60], [33, 75], [57, 75]], np.float32)
    plain = Identity("face", {"dlib": face}, points, (96, 96), ("a" * 64,), True, warnings=("small face",))
    both = Identity("face", {"dlib": face, "antelopev2": rows}, sources=("a" * 64, "b" * 64))
    thing = Identity("object", {"dlib": face})
    return [to_bytes(identity) for identity in (plain, both, thing)]


def settings_seeds() -> list[bytes]:
    """Settings as they stand in a PNG."""
    source = {"path": "me.safetensors", "typed": "me.safetensors", "sha256": "0" * 64}
    settings = {"format": 1, "ai_generated": True, "prompt": "a face", "negative": "", "base": "mini"}
    settings |= {"adapters": [{"name": "instantid", "scale": 1.0}], "steps": 2, "guidance": 3.0, "seed": 1}
    settings |= {"width": 128, "height": 128, "device": "cpu", "dtype": "fp32", "lora": [], "pose": None}
    settings |= {"identity": {"from": "file", "sources": [source], "face": None, "consent": False}}
    return [json.dumps(settings).encode(), json.dumps(settings | {"pose": source}).encode()]


def people_seeds(folder: Path) -> list[bytes]:
    """A people registry with two entries."""
    from idpersona.safety.people import People, Person

    centroid = np.random.default_rng(0).normal(size=128).astype(np.float32)
    entries = (
        Person("Ada", "deny", {"dlib": centroid}, 5, contact="ada@example.org"),
        Person("Bo", "allow", {"dlib": -centroid, "antelopev2": np.ones(512, np.float32)}, 3),
    )
    People(entries).save(folder / "people.safetensors")
    return [(folder / "people.safetensors").read_bytes()]


def use_identity(path: Path) -> None:
    """What happens to an identity file on its way into an adapter."""
    from idpersona.identity import Identity

    identity = Identity.load(path)
    json.dumps(identity.describe(), allow_nan=False)
    Identity.merge([identity, identity])
    identity.feature("dlib", needed_by="instantid")


def use_settings(path: Path) -> None:
    """What ``generate --from`` does with a picture that carries these settings, before it loads a model."""
    from idpersona.jobs.listener import Listener
    from idpersona.jobs.request import Request, recorded_request
    from idpersona.jobs.sources import FileSources
    from idpersona.provenance import read_settings

    # PNG guards its chunks by checksums, so the changed text goes into a sound file.
    info = PngInfo()
    info.add_itxt("parameters", path.read_bytes().decode("utf-8", "replace").replace("\0", ""))
    png = path.with_suffix(".png")
    Image.new("RGB", (8, 8)).save(png, pnginfo=info)
    asked = Request(identity="me.safetensors")
    recorded_request(read_settings(png), FileSources(png), asked, Listener()).checked()


def run(count: int, detections: int, seed: int) -> Iterator[Tally]:
    """All kinds, ``count`` files each (a fifth for settings and registry)."""
    from idpersona.encoders import read_identity
    from idpersona.images import open_photo
    from idpersona.safety.people import People

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        yield fuzz("identity files", identity_seeds(), ".safetensors", use_identity, count, seed, folder)
        yield fuzz("photo files", photo_seeds(), ".jpg", open_photo, count, seed, folder)
        yield fuzz("PNG settings", settings_seeds(), ".json", use_settings, count // 5, seed, folder)
        registry = people_seeds(folder)
        yield fuzz("people registry", registry, ".safetensors", People.load, count // 5, seed, folder)
        faces = photo_seeds(160)
        yield fuzz("detection", faces, ".jpg", lambda path: read_identity(path), detections, seed, folder)


def main() -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="identity files, and photo files")
    parser.add_argument("--detections", type=int, default=200, help="photos through detection too")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    started, defects = time.monotonic(), 0
    for tally in run(arguments.count, arguments.detections, arguments.seed):
        print(f"{tally.line()} ({time.monotonic() - started:.0f} s)", flush=True)
        for defect in tally.defects[:5]:
            print(defect)
        defects += len(tally.defects)
    return 1 if defects else 0


if __name__ == "__main__":
    sys.exit(main())

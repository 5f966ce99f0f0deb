"""The pictures of the embedded model that the repository shows; to be made again after new weights.

``python -m idpersona.training.showcase`` writes into ``assets/``:

* ``samples/person-1.png`` …: synthetic people, each with a face that dlib finds at once, for ``--photo
  sample:person-1``;
* ``pictures/prompts.png``: a sheet of 24 prompts, all with the same seed;
* ``pictures/overview.png``: the public-domain sample photo, and the person in it drawn after several prompts;
* ``pictures/infinite-id.png``, ``wplus.png``, ``anymaker.png``: the same by the other methods;
* ``pictures/decor.png``: prompts with a LoRA that leaks, and with DECOR beside it;
* ``pictures/pairs.png``: two people in one picture;
* ``pictures/sliders.png``: synthetic people moved along the W+ adapter's directions;
* ``pictures/edits.png``: the public-domain sample photo and synthetic people, each with one attribute turned
  round by words, as ``idpersona edit`` does where nothing else is said.

No photo of anybody else goes into them. ``--only NAME`` makes some of them again, by the name of the file or
``people``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from idpersona.errors import BadInput, UnknownName
from idpersona.training.command import exit_status
from idpersona.training.publish import ASSETS

PEOPLE = (
    "a photo of a young woman with brown hair",
    "a photo of a man with black hair",
    "a photo of an old man with gray hair",
    "a photo of a smiling woman with blond hair",
)
PROMPTS = (
    "a photo of a person",
    "a photo of a man",
    "a photo of a woman",
    "a photo of a smiling man",
    "a photo of a smiling woman",
    "a photo of a woman, not smiling",
    "a photo of a young man",
    "a photo of an old man",
    "a photo of a young woman",
    "a photo of an old woman",
    "a photo of a man with black hair",
    "a photo of a man with blond hair",
    "a photo of a woman with black hair",
    "a photo of a woman with blond hair",
    "a photo of a woman with brown hair",
    "a photo of a man with gray hair",
    "a photo of a woman with bangs",
    "a photo of a bald man",
    "a photo of a man with eyeglasses",
    "a photo of a woman with eyeglasses",
    "a photo of a man wearing a hat",
    "a photo of a woman wearing a hat",
    "a photo of a man with a beard",
    "a photo of a woman wearing red lipstick",
)
OVERVIEW = (
    "a photo of a woman",
    "a photo of a smiling woman",
    "a photo of a woman, not smiling",
    "a photo of a woman with eyeglasses",
    "a photo of a woman wearing a hat",
    "a photo of a woman with blond hair",
)
OF_A_PERSON = ("infinite-id", "wplus", "anymaker")
"""Methods that are shown like InstantID in the overview."""
LEAKING = (
    "a photo of a smiling woman",
    "a photo of a man with black hair",
    "a photo of a woman with blond hair",
    "a photo of an old man",
)
LEAKED = "a photo of a person with eyeglasses"
LORA_SCALE = 2.0
"""The strength at which the LoRA leaks (``benchmarks/decor_leak.py``)."""
PAIRS = (
    ("sample:person-1", "sample:person-2"),
    ("sample:person-3", "sample:person-4"),
    ("sample:astronaut", "sample:person-2"),
)
SLIDERS = ("smile", "eyeglasses", "age", "gender")
AMOUNTS = (-2.0, -1.0, 0.0, 1.0, 2.0)
EDITED = ("sample:astronaut", "sample:person-1", "sample:person-2", "sample:person-4")
TURNED = {
    "Smiling": "smile",
    "Eyeglasses": "eyeglasses",
    "Wearing_Hat": "hat",
    "Young": "age",
    "Blond_Hair": "blond or black",
}
"""Attributes that are turned round in each, and their headings."""
SAMPLE = "sample:astronaut"
SAMPLE_FACE = (120, 0, 330, 210)
TRIES = 40
"""Seeds that are tried for a synthetic person."""


@dataclass
class Easel:
    """The embedded model, its usual settings, and the folder that pictures go to.

    Attributes:
        assets: folder to write to.
        seed: of the start noise, the same for all pictures of a sheet.
        written: files so far.
    """

    assets: Path
    seed: int
    pipe: Any
    settings: dict[str, Any]
    written: list[Path] = field(default_factory=list)

    def draw(self, prompts: Sequence[str], seed: int | None = None, **more: Any) -> list[Image.Image]:
        """One picture for each prompt, all from the same noise."""
        number = self.seed if seed is None else seed
        generators = [torch.Generator("cpu").manual_seed(number) for _ in prompts]
        return self.pipe(list(prompts), generator=generators, **self.settings, **more).images

    def write(self, place: str, picture: Image.Image, **about: Any) -> None:
        """Write a picture, marked as drawn by a model; with ``photo`` in ``about`` it shows one as well."""
        from idpersona.provenance import COMPOSITE_TYPE, SOURCE_TYPE, write_png

        path = self.assets / place
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = COMPOSITE_TYPE if "photo" in about else SOURCE_TYPE
        settings = {"base": "mini", **self.settings, "seed": self.seed, **about}
        write_png(picture, path, settings, force=True, source_type=kind)
        self.written.append(path)

    def sheet(self, place: str, rows: Sequence[Sequence[Image.Image]], about: Any, **captions: Any) -> None:
        """Write a contact sheet."""
        from idpersona.sheets import contact_sheet

        self.write(place, contact_sheet(rows, **captions), **about)


def _people(easel: Easel) -> None:
    for number, prompt in enumerate(PEOPLE, start=1):
        picture, chosen = _first_with_a_face(easel.draw, prompt, easel.seed)
        easel.write(f"samples/person-{number}.png", picture, prompt=prompt, seed=chosen)


def _prompts(easel: Easel) -> None:
    drawn = easel.draw(PROMPTS)
    rows = [drawn[start : start + 6] for start in range(0, len(drawn), 6)]
    easel.sheet("pictures/prompts.png", rows, {"prompts": PROMPTS})


def _of_a_person(easel: Easel, method: str, place: str) -> None:
    """The sample photo, and the person in it after several prompts."""
    from idpersona.adapters import load_adapter
    from idpersona.images import open_photo

    adapter = load_adapter(method, base=easel.pipe)
    photo = open_photo(SAMPLE)
    with adapter.attach(easel.pipe, adapter.read([photo])):
        drawn = easel.draw(OVERVIEW)
    columns = ["photo", *(prompt.removeprefix("a photo of ") for prompt in OVERVIEW)]
    about = {"prompts": OVERVIEW, "photo": SAMPLE, "adapter": method}
    easel.sheet(place, [[photo.crop(SAMPLE_FACE), *drawn]], about, columns=columns, cell=160)


def _decor(easel: Easel) -> None:
    """The base, the LoRA that leaks, and DECOR of two degrees beside it."""
    from idpersona.adapters import load_adapter

    decor, rows = load_adapter("decor"), [easel.draw(LEAKING)]
    easel.pipe.load_lora_weights(ASSETS / "lora-eyeglasses", adapter_name="lora")
    try:
        easel.pipe.set_adapters("lora", LORA_SCALE)
        for degree in (0.0, 0.5, 1.0):
            with decor.attach(easel.pipe, scale=degree, prompt=LEAKED):
                rows.append(easel.draw(LEAKING))
    finally:
        easel.pipe.unload_lora_weights()
    names = ["base", "LoRA", "DECOR 0.5", "DECOR 1"]
    columns = [prompt.removeprefix("a photo of ") for prompt in LEAKING]
    about = {"prompts": LEAKING, "lora": f"lora-eyeglasses:{LORA_SCALE:g}", "decor": f"prompt={LEAKED}"}
    easel.sheet("pictures/decor.png", rows, about, columns=columns, names=names)


def _pairs(easel: Easel) -> None:
    """Two people in one picture, InstantID."""
    from idpersona.adapters import load_adapter

    adapter, rows = load_adapter("instantid", base=easel.pipe), []
    for pair in PAIRS:
        boxes = ((0, 0, 128, 128), (128, 0, 128, 128))
        people = {adapter.read([photo]): box for photo, box in zip(pair, boxes, strict=True)}
        with adapter.attach(easel.pipe, people):
            (wide,) = easel.draw(["a photo of a person"], height=128, width=256)
        rows += [wide.crop((0, 0, 128, 128)), wide.crop((128, 0, 256, 128))]
    about = {"adapter": "instantid", "prompt": "a photo of a person", "people": PAIRS}
    easel.sheet("pictures/pairs.png", [rows], about)


def _sliders(easel: Easel) -> None:
    """A synthetic person for each direction, moved from one end to the other."""
    from idpersona.adapters import load_adapter

    adapter: Any = load_adapter("wplus", base=easel.pipe)
    rows = []
    for number, direction in enumerate(SLIDERS, start=1):
        person = adapter.read([f"sample:person-{number}"])
        moved = [adapter.edit(person, **{direction: amount}) for amount in AMOUNTS]
        with adapter.attach(easel.pipe, moved):
            rows.append(easel.draw(["a photo of a person"] * len(moved)))
    columns = [f"{amount:+g}" for amount in AMOUNTS]
    about = {"adapter": "wplus", "prompt": "a photo of a person", "directions": SLIDERS, "amounts": AMOUNTS}
    easel.sheet("pictures/sliders.png", rows, about, columns=columns, names=SLIDERS)


def _edits(easel: Easel) -> None:
    """Photos in rows, attributes turned round in columns."""
    from idpersona.encoders import read_identity
    from idpersona.encoders.describe import describe, look, turn
    from idpersona.images import open_photo
    from idpersona.pipelines import Control, invert, retouch
    from idpersona.registry import get_weight
    from idpersona.training.data.framing import frame

    usual = get_weight("mini").defaults
    control = Control(strength=usual["edit_strength"])
    rows = []
    for name in EDITED:
        points = read_identity([name], "dlib").keypoints
        assert points is not None  # dlib reads faces
        photo, _ = frame(open_photo(name), points)
        seen = look(photo)
        steps, guidance = int(usual["edit_steps"]), usual["edit_guidance"]
        record = invert(easel.pipe, photo, describe(seen), steps=steps, guidance=guidance)
        row = [photo]
        for attribute in TURNED:
            row += retouch(easel.pipe, record, photo, describe(turn(seen, attribute)[0]), control=control)
        rows.append(row)
    about = {"photo": EDITED, "attributes": tuple(TURNED), "edit": usual}
    easel.sheet("pictures/edits.png", rows, about, columns=["photo", *TURNED.values()], cell=96)


SHOWN: dict[str, Callable[[Easel], None]] = {
    "people": _people,
    "prompts": _prompts,
    "overview": partial(_of_a_person, method="instantid", place="pictures/overview.png"),
    **{name: partial(_of_a_person, method=name, place=f"pictures/{name}.png") for name in OF_A_PERSON},
    "decor": _decor,
    "pairs": _pairs,
    "sliders": _sliders,
    "edits": _edits,
}
"""All that is shown, by the name for ``--only``."""


def showcase(assets: Path, seed: int, only: Sequence[str] = ()) -> list[Path]:
    """Draw and write all of them, or those named, with the embedded weights; returns the files.

    Raises:
        BadInput: no face is found in any picture of a synthetic person.
        UnknownName: there is no such picture.
    """
    from idpersona.pipelines import load_base
    from idpersona.registry import get_weight

    for name in only:
        if name not in SHOWN:
            raise UnknownName("picture", name, SHOWN)
    defaults = get_weight("mini").defaults
    settings = {"num_inference_steps": defaults["steps"], "guidance_scale": defaults["guidance"]}
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    easel = Easel(assets, seed, pipe, settings)
    for name in only or SHOWN:
        SHOWN[name](easel)
    return easel.written


def _first_with_a_face(draw: Any, prompt: str, seed: int) -> tuple[Image.Image, int]:
    """The first picture in which dlib finds one face and is sure of it, and its seed."""
    from idpersona.encoders import get_encoder

    eyes: Any = get_encoder("dlib")
    for number in range(seed, seed + TRIES):
        (picture,) = draw([prompt], number)
        faces = eyes.detect(picture)
        if len(faces) == 1 and faces[0].score >= eyes.sure_score:
            return picture, number
    raise BadInput(f"no sure face in {TRIES} pictures of '{prompt}': the weights are not good enough to show")


def main() -> int:
    """Command line of this module; 2 on bad input, with one line on standard error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder to write to")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help=", ".join(SHOWN))
    given = parser.parse_args()
    return exit_status(lambda: print(*showcase(given.assets, given.seed, given.only), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())

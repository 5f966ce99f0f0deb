"""The pictures of the embedded model that the repository shows; to be made again after new weights.

``python -m idpersona.training.showcase`` writes into ``assets/``:

* ``samples/person-1.png`` …: synthetic people, each with a face that dlib finds at once, for ``--photo
  sample:person-1``;
* ``pictures/prompts.png``: a sheet of 24 prompts, all with the same seed;
* ``pictures/overview.png``: the public-domain sample photo, and the person in it drawn after several prompts.

No photo of anybody else goes into them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from idpersona.errors import BadInput
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
TRIES = 40
"""Seeds that are tried for a synthetic person."""


def showcase(assets: Path, seed: int) -> list[Path]:
    """Draw and write all of them with the embedded weights of this checkout; returns the files.

    Raises BadInput when no face is found in any picture of a synthetic person.
    """
    from idpersona.adapters import load_adapter
    from idpersona.images import open_photo
    from idpersona.pipelines import load_base
    from idpersona.provenance import COMPOSITE_TYPE, SOURCE_TYPE, write_png
    from idpersona.registry import get_weight
    from idpersona.sheets import contact_sheet

    defaults = get_weight("mini").defaults
    settings: dict[str, Any] = {
        "num_inference_steps": defaults["steps"],
        "guidance_scale": defaults["guidance"],
    }
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    written: list[Path] = []

    def draw(prompts: Sequence[str], number: int) -> list[Image.Image]:
        generators = [torch.Generator("cpu").manual_seed(number) for _ in prompts]
        return pipe(list(prompts), generator=generators, **settings).images

    def write(place: str, picture: Image.Image, **about: Any) -> None:
        path = assets / place
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = COMPOSITE_TYPE if "photo" in about else SOURCE_TYPE
        write_png(picture, path, {"base": "mini", **settings, **about}, force=True, source_type=kind)
        written.append(path)

    for number, prompt in enumerate(PEOPLE, start=1):
        picture, chosen = _first_with_a_face(draw, prompt, seed)
        write(f"samples/person-{number}.png", picture, prompt=prompt, seed=chosen)

    drawn = draw(PROMPTS, seed)
    rows = [drawn[start : start + 6] for start in range(0, len(drawn), 6)]
    write("pictures/prompts.png", contact_sheet(rows), prompts=PROMPTS, seed=seed)

    adapter = load_adapter("instantid", base=pipe)
    photo = open_photo("sample:astronaut")
    with adapter.attach(pipe, adapter.read([photo])):
        with_her = draw(OVERVIEW, seed)
    face = photo.crop((120, 0, 330, 210))
    sheet = contact_sheet(
        [[face, *with_her]], columns=["photo", *(p.removeprefix("a photo of ") for p in OVERVIEW)], cell=160
    )
    write("pictures/overview.png", sheet, prompts=OVERVIEW, seed=seed, photo="sample:astronaut")
    return written


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
    arguments = parser.parse_args()
    return exit_status(lambda: print(*showcase(arguments.assets, arguments.seed), sep="\n"))


if __name__ == "__main__":
    sys.exit(main())

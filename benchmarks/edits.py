"""The README's sheet of edits: the public-domain sample and people whom mini made, turned by words.

``python benchmarks/edits.py OUT.png [--photos sample:astronaut sample:person-2 …]``. As ``idpersona edit``
does with its defaults on mini: the source prompt is what the attribute classifier sees.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from idpersona.encoders import read_identity
from idpersona.encoders.describe import describe, look, turn
from idpersona.images import open_photo
from idpersona.pipelines import Control, invert, load_base
from idpersona.pipelines.editing.retouch import retouch
from idpersona.provenance import COMPOSITE_TYPE, write_png
from idpersona.registry import get_weight
from idpersona.sheets import contact_sheet
from idpersona.silence import quiet_libraries
from idpersona.training.data.framing import frame

ATTRIBUTES = {
    "Smiling": "smile",
    "Eyeglasses": "eyeglasses",
    "Wearing_Hat": "hat",
    "Young": "age",
    "Blond_Hair": "blond or black",
}
PHOTOS = ("sample:astronaut", "sample:person-1", "sample:person-2", "sample:person-4")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("--photos", nargs="*", default=PHOTOS)
    arguments = parser.parse_args()
    quiet_libraries()
    pipe: Any = load_base("mini")
    pipe.set_progress_bar_config(disable=True)
    usual = get_weight("mini").defaults
    rows = []
    for name in arguments.photos:
        face = read_identity([name], "dlib")
        photo, _ = frame(open_photo(name), face.keypoints, 128)
        seen = look(photo)
        source = describe(seen)
        steps, guidance = int(usual["edit_steps"]), usual["edit_guidance"]
        record = invert(pipe, photo, source, steps=steps, guidance=guidance)
        row = [photo]
        for attribute in ATTRIBUTES:
            control = Control(strength=usual["edit_strength"])
            target = describe(turn(seen, attribute)[0])
            row += retouch(pipe, record, [photo], target, control=control)
        rows.append(row)
    sheet = contact_sheet(rows, columns=["photo", *ATTRIBUTES.values()], cell=96)
    write_png(sheet, arguments.output, {"sheet": "edits"}, force=True, source_type=COMPOSITE_TYPE)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

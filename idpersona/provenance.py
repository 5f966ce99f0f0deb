"""Pictures that say what they are: settings and the words "AI generated" inside every PNG, readable back.

Three standard places carry it: the text chunk ``parameters`` (JSON, all settings), the text chunks
``Software`` and ``Comment`` ("AI generated"), and an XMP packet whose IPTC field *digital source type* is
``trainedAlgorithmicMedia`` (``compositeWithTrainedAlgorithmicMedia`` for sheets that show photos, too), which
is what photo programs and platforms look for.

Of the identity, a picture carries names and hashes, never the features: whoever is handed a picture must not
be handed the face descriptor with it. Repeating a picture therefore needs the identity file or the photos
again; they are looked for where they were, and recognised by their sha256.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from idpersona.errors import BadInput, PhotoError
from idpersona.images import atomic_output

FORMAT = 1
MARK = "AI generated"
_CODES = "http://cv.iptc.org/newscodes/digitalsourcetype"
SOURCE_TYPE = f"{_CODES}/trainedAlgorithmicMedia"
COMPOSITE_TYPE = f"{_CODES}/compositeWithTrainedAlgorithmicMedia"
MAX_SETTINGS = 4_000_000
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/"
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 xmp:CreatorTool="{tool}" Iptc4xmpExt:DigitalSourceType="{source}"/>
</rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def write_png(
    image: Image.Image,
    path: str | os.PathLike[str],
    settings: Mapping[str, Any],
    *,
    force: bool = False,
    source_type: str = SOURCE_TYPE,
) -> Path:
    """Write ``image`` with its ``settings`` and the mark "AI generated".

    Args:
        image: the picture; written as RGB, losslessly.
        path: file to write, whole or not at all.
        settings: JSON-able; ``format``, ``ai_generated`` and ``software`` are added.
        force: overwrite an existing file.
        source_type: the IPTC code; ``COMPOSITE_TYPE`` for a sheet that shows photos beside drawn pictures.

    Raises:
        OutputError: it cannot be written.
    """
    write_pngs([(image, path, settings)], force=force, source_type=source_type)
    return Path(path)


def write_pngs(
    pictures: Sequence[tuple[Image.Image, str | os.PathLike[str], Mapping[str, Any]]],
    *,
    force: bool = False,
    source_type: str = SOURCE_TYPE,
) -> None:
    """As :func:`write_png` for several (image, path, settings).

    None takes its place before all of them lie complete on the disc.
    """
    with ExitStack() as files:
        for image, path, settings in pictures:
            part = files.enter_context(atomic_output(path, force=force))
            image.convert("RGB").save(part, format="PNG", pnginfo=_chunks(settings, source_type))


def _chunks(settings: Mapping[str, Any], source_type: str) -> PngInfo:
    from idpersona import __version__

    software = f"idpersona {__version__}"
    full = {"format": FORMAT, "ai_generated": True, "software": software, **settings}
    info = PngInfo()
    info.add_text("Comment", MARK)
    info.add_text("Software", software)
    info.add_itxt("parameters", json.dumps(full, ensure_ascii=False, allow_nan=False))
    info.add_itxt("XML:com.adobe.xmp", _XMP.format(tool=escape(software), source=source_type))
    return info


def is_marked(path: str | os.PathLike[str]) -> bool:
    """Whether a picture file carries our mark or an IPTC source type of generated media."""
    info = _png_info(path)
    packet = str(info.get("XML:com.adobe.xmp", ""))
    return info.get("Comment") == MARK or SOURCE_TYPE in packet or COMPOSITE_TYPE in packet


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The settings that :func:`write_png` put into a PNG.

    Raises:
        PhotoError: not a readable PNG, or it carries no settings of ours.
        BadInput: the settings are damaged, or were written by a newer version.
    """
    text = _png_info(path).get("parameters")
    if not isinstance(text, str):
        raise PhotoError(f"{path} carries no settings: only PNG files written by idpersona can be repeated")
    if len(text) > MAX_SETTINGS:
        raise BadInput(f"the settings in {path} are too long to be ours ({len(text):,} characters)")
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Other programs use the same chunk for settings of their own, in their own notation.
        raise BadInput(f"the settings in {path} were not written by idpersona, or are damaged") from error
    if not isinstance(settings, dict) or settings.get("ai_generated") is not True:
        raise BadInput(f"the settings in {path} were not written by idpersona")
    version = settings.get("format")
    if not isinstance(version, int) or version < 1:
        raise BadInput(f"the settings in {path} name no format version")
    if version > FORMAT:
        raise BadInput(f"the settings in {path} have format {version}, newer than {FORMAT}: update idpersona")
    return settings


def _png_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    file = Path(path)
    if not file.is_file():
        raise PhotoError(f"no such picture: {file}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=["PNG"])
        with image:
            image.load()  # text may stand behind the pixels
            return {str(key): value for key, value in image.info.items()}
    except Exception as error:  # a decoder fed with hostile bytes may raise anything
        raise PhotoError(f"{file} is not a readable PNG") from error

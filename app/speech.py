"""What is told to people who do not use a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping

LABELS = {
    "--prompt": "Prompt",
    "--negative": "Negative prompt",
    "--source": "What the photo shows",
    "--adapter": "Method",
    "--scale": "Strength of the method",
    "--base": "Model",
    "--lora": "LoRA",
    "--steps": "Steps",
    "--guidance": "Guidance",
    "--size": "Size",
    "--seed": "Seed",
    "-n": "Number of pictures",
    "--pose": "Pose photo",
    "--photo": "Photos",
    "--identity": "Identity",
    "--person": "People",
    "--face": "Face",
    "--mask": "Mask",
    "--consent": "Consent",
    "--require-consent": "This studio needs consent",
    "--commercial": "This studio is for commercial use",
    "--set": "Option",
    "--method": "Editing method",
    "--strength": "Strength of the edit",
    "--words": "Only where these words are",
    "--emphasis": "Emphasis",
    "--keep-background": "Change the head only",
    "--cross-steps": "Steps that keep places",
    "--self-steps": "Steps that keep the layout",
    "--crop": "Part of the photo",
    "--inversion": "The saved inversion",
    "--weighted": "Weighted prompt",
    "--vary": "Variation",
    "--dtype": "Number type",
    "--device": "Device",
    "--encoder": "Encoder",
    "--no-safety-checker": "Safety checker off",
    "--safety-checker": "Safety checker",
    "--grid": "Sheet of strengths",
    "--force": "Overwrite",
}
"""Options of the command line -> what the page calls them."""
_READ_AGAIN = re.compile(r"\s*\(idpersona identify [^()]*\)")
_PLACE = re.compile(r"(?<![\w:/.~-])(?:~|[A-Za-z]:)?[/\\][\w.@~+-]+(?:[/\\][^\s'\",;:()]*)+")
"""An absolute path with a folder in it; no address of the web, and no fraction."""
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-n)(?![\w-])")


def hide_places(text: str, names: Mapping[str, str] | None = None) -> str:
    """A text without any path of this machine.

    Args:
        text: anything.
        names: paths of files -> what their owner calls them.
    """
    told = text
    for path, name in sorted((names or {}).items(), key=lambda pair: -len(pair[0])):
        told = told.replace(path, name)
    return _PLACE.sub("a file of the studio", told)


def speak(text: str, names: Mapping[str, str] | None = None) -> str:
    """A message of the package in the words of the page, without any path of this machine.

    Args:
        text: one line; option names become labels.
        names: paths of files -> what their owner calls them.
    """
    told = _READ_AGAIN.sub(": read the photo again under Identities, for this method", text)
    told = hide_places(told, names)
    told = _OPTION.sub(lambda found: f"“{LABELS[found[1]]}”" if found[1] in LABELS else found[1], told)
    return told[:1].upper() + told[1:]

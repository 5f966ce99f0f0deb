"""What is told to people who do not use a command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

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
_OPTION = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-n)(?![\w-])")


def speak(text: str, names: Mapping[str, str] | None = None) -> str:
    """A message of the package in the words of the page.

    Args:
        text: one line; option names become labels.
        names: paths of files -> what their owner calls them. The rest of their folders stays unsaid.
    """
    told = text
    folders: set[str] = set()
    for path, name in sorted((names or {}).items(), key=lambda pair: -len(pair[0])):
        told = told.replace(path, name)
        folders.add(str(Path(path).parent))
    for folder in folders:
        told = re.sub(re.escape(folder) + r"[^\s'\",;:)]*", "a file of the studio", told)
    told = _OPTION.sub(lambda found: f"“{LABELS[found[1]]}”" if found[1] in LABELS else found[1], told)
    return told[:1].upper() + told[1:]

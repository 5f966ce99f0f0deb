"""Captions for the embedded model, made from the 40 CelebA attributes with varied wording.

The grammar is small on purpose: a model of a few million parameters learns what it is told often. Every
attribute that a user may ask for is said in several ways, sometimes denied, and often left out, so that a
short prompt works.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from idpersona.encoders.describe import article, joined

_OPENINGS = (
    "a photo of",
    "a portrait of",
    "a picture of",
    "a close-up photo of",
    "a headshot of",
    "photo of",
)
_QUALITY = ("a blurry photo of", "a low quality photo of", "a low resolution picture of")

_MEN = {
    "young": ("young man", "boy", "young guy"),
    "old": ("old man", "older man", "elderly man"),
    "": ("man", "male person", "guy"),
}
_WOMEN = {
    "young": ("young woman", "girl", "young lady"),
    "old": ("old woman", "older woman", "elderly woman"),
    "": ("woman", "female person", "lady"),
}
_PEOPLE = {"young": ("young person",), "old": ("old person", "older person"), "": ("person",)}

NOUNS = ("man", "woman", "person", "guy", "lady", "boy", "girl")
"""The words for the subject; every caption holds one."""

_HAIR_COLOURS = {
    "Blond_Hair": ("blond hair", "blonde hair", "fair hair"),
    "Black_Hair": ("black hair", "dark black hair"),
    "Brown_Hair": ("brown hair", "brunette hair"),
    "Gray_Hair": ("gray hair", "grey hair", "white hair"),
}
_HAIR_SHAPES = {"Wavy_Hair": ("wavy", "curly"), "Straight_Hair": ("straight",)}

# attribute -> (how it is said after "with"/"wearing", how it is denied)
_WITH: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Eyeglasses": (("eyeglasses", "glasses", "spectacles"), ("without eyeglasses", "without glasses")),
    "Bangs": (("bangs", "a fringe"), ("without bangs", "with no bangs")),
    "Goatee": (("a goatee",), ()),
    "Mustache": (("a mustache", "a moustache"), ("without a mustache",)),
    "Sideburns": (("sideburns",), ()),
    "5_o_Clock_Shadow": (("stubble", "a five o'clock shadow"), ()),
    "Bushy_Eyebrows": (("bushy eyebrows", "thick eyebrows"), ()),
    "Arched_Eyebrows": (("arched eyebrows",), ()),
    "Big_Nose": (("a big nose",), ()),
    "Pointy_Nose": (("a pointy nose",), ()),
    "Big_Lips": (("big lips", "full lips"), ()),
    "Double_Chin": (("a double chin",), ()),
    "High_Cheekbones": (("high cheekbones",), ()),
    "Oval_Face": (("an oval face",), ()),
    "Pale_Skin": (("pale skin",), ()),
    "Rosy_Cheeks": (("rosy cheeks",), ()),
    "Receding_Hairline": (("a receding hairline",), ()),
    "Bags_Under_Eyes": (("bags under the eyes",), ()),
    "Narrow_Eyes": (("narrow eyes",), ()),
    "Heavy_Makeup": (("heavy makeup", "makeup"), ("without makeup",)),
}
_WEARING: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Wearing_Hat": (("a hat", "a cap"), ("without a hat", "with no hat")),
    "Wearing_Lipstick": (("lipstick", "red lipstick"), ("without lipstick",)),
    "Wearing_Earrings": (("earrings",), ()),
    "Wearing_Necklace": (("a necklace",), ()),
    "Wearing_Necktie": (("a necktie", "a tie"), ()),
}
# Attributes people ask for most; they are named three times out of four, the rest less often.
_FREQUENT = frozenset(
    {"Eyeglasses", "Bangs", "Wearing_Hat", "Goatee", "Mustache", "Wearing_Lipstick", "Heavy_Makeup"}
)

Attributes = Mapping[str, bool]


def caption(attributes: Attributes, rng: np.random.Generator, *, low_quality: bool = False) -> str:
    """One caption for a photo with ``attributes`` (CelebA name -> present, unknown ones left out).

    ``low_quality`` photos (enlarged or marked Blurry) say so, so that a plain prompt asks for the sharp ones.
    """
    opening = _pick(_QUALITY if low_quality else _OPENINGS, rng)
    if rng.random() < 0.08:
        return f"{opening} a person"
    subject = _subject(attributes, rng)
    wearing, having, denied = _accessories(attributes, rng)
    hair = _hair(attributes, rng)
    if hair:
        having.insert(0, hair)
    having = [having[i] for i in rng.permutation(len(having))]
    text = f"{opening} {article(subject)} {subject}"
    if having:
        text += " with " + joined(having)
    if wearing:
        text += " wearing " + joined(wearing)
    for words in denied:
        text += " " + words
    if attributes.get("Smiling") is False and rng.random() < 0.35:
        text += ", " + _pick(("not smiling", "with a serious face", "with a neutral expression"), rng)
    if attributes.get("Mouth_Slightly_Open") and rng.random() < 0.2:
        text += ", with an open mouth"
    return text


def _subject(attributes: Attributes, rng: np.random.Generator) -> str:
    male, young = attributes.get("Male"), attributes.get("Young")
    nouns = _PEOPLE if male is None or rng.random() < 0.2 else _MEN if male else _WOMEN
    age = ""
    if young is not None and rng.random() < (0.45 if young else 0.75):
        age = "young" if young else "old"
    words = [_pick(nouns[age], rng)] if rng.random() < 0.3 else [nouns[age][0]]
    if attributes.get("Attractive") and rng.random() < 0.15:
        words.insert(0, "attractive")
    if attributes.get("Bald") and rng.random() < 0.8:
        words.insert(0, "bald")
    if attributes.get("Chubby") and rng.random() < 0.4:
        words.insert(0, "chubby")
    if attributes.get("Smiling") and rng.random() < 0.75:
        words.insert(0, _pick(("smiling", "smiling", "happy smiling"), rng))
    return " ".join(words)


def _hair(attributes: Attributes, rng: np.random.Generator) -> str:
    colours = [name for name in _HAIR_COLOURS if attributes.get(name)]
    shapes = [name for name in _HAIR_SHAPES if attributes.get(name)]
    shape = _pick(_HAIR_SHAPES[shapes[0]], rng) if shapes and rng.random() < 0.35 else ""
    if colours and rng.random() < 0.75:
        words = _HAIR_COLOURS[colours[0]]
        colour = words[0] if rng.random() < 0.6 else _pick(words, rng)
        return f"{shape} {colour}".strip()
    return f"{shape} hair" if shape else ""


def _accessories(attributes: Attributes, rng: np.random.Generator) -> tuple[list[str], list[str], list[str]]:
    wearing: list[str] = []
    having: list[str] = []
    denied: list[str] = []
    for table, target in ((_WEARING, wearing), (_WITH, having)):
        for name, (said, refused) in table.items():
            value = attributes.get(name)
            if value and rng.random() < (0.75 if name in _FREQUENT else 0.2):
                target.append(said[0] if rng.random() < 0.6 else _pick(said, rng))
            elif value is False and refused and rng.random() < 0.10:
                denied.append(_pick(refused, rng))
    if attributes.get("No_Beard") is False and rng.random() < 0.7:
        having.append("a beard")
    elif attributes.get("No_Beard") and attributes.get("Male") and rng.random() < 0.1:
        denied.append("without a beard")
    return wearing, having, denied


def _pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]

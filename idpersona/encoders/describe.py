"""A face in words that the embedded model knows: the prompt from which its photo is inverted.

The attribute classifier ``labeler`` looks at the picture, in the model's own framing; the captions that the
model was trained on were made of the same attributes.
"""

from __future__ import annotations

from collections.abc import Mapping

from PIL import Image

SURE = 0.5
"""Probability from which an attribute is said to be there."""
CLEARLY = 0.7
"""Probability from which somebody is called young or old."""
_HAIR = {
    "Blond_Hair": "blond hair",
    "Black_Hair": "black hair",
    "Brown_Hair": "brown hair",
    "Gray_Hair": "gray hair",
}
_WITH = {"Bangs": "bangs", "Eyeglasses": "eyeglasses", "Goatee": "a goatee", "Mustache": "a mustache"}
_WEARING = {"Wearing_Hat": "a hat"}
WORDS = {**_HAIR, **_WITH, **_WEARING, "Smiling": "smiling", "Bald": "bald"}
"""Attributes that are said if they are there, and how."""


def look(picture: Image.Image) -> dict[str, float]:
    """Probability in 0..1 of every attribute in an RGB picture whose face stands as in the embedded model's.

    Raises:
        MissingWeights: the classifier is not in this installation.
    """
    from idpersona.encoders.attributes import get_classifier

    labeler = get_classifier("labeler")
    return dict(zip(labeler.labels, labeler.probabilities([picture])[0].tolist(), strict=True))


def describe(attributes: Mapping[str, float]) -> str:
    """``a photo of a smiling young woman with blond hair and eyeglasses``, of probabilities in 0..1.

    Attributes that are not given are not said.
    """

    def seen(name: str) -> bool:
        return attributes.get(name, 0.0) > SURE

    young = attributes.get("Young", 0.5)
    age = "young" if young > CLEARLY else "old" if young < 1 - CLEARLY else ""
    noun = "person" if "Male" not in attributes else "man" if seen("Male") else "woman"
    having = [text for name, text in _WITH.items() if seen(name)]
    # A goatee or a mustache is a beard, too.
    bearded = not (seen("No_Beard") or seen("Goatee") or seen("Mustache"))
    if bearded and "No_Beard" in attributes and noun == "man":
        having.append("a beard")
    hair = max(_HAIR, key=lambda name: attributes.get(name, 0.0))
    if seen(hair) and not seen("Bald"):
        having.insert(0, _HAIR[hair])
    wearing = [text for name, text in _WEARING.items() if seen(name)]
    who = [word for name, word in (("Smiling", "smiling"), ("Bald", "bald")) if seen(name)]
    subject = " ".join([*who, *filter(None, [age]), noun])
    text = f"a photo of {article(subject)} {subject}"
    text += f" with {joined(having)}" if having else ""
    return text + (f" wearing {joined(wearing)}" if wearing else "")


def turn(attributes: Mapping[str, float], name: str) -> tuple[dict[str, float], bool]:
    """The attributes with one of them the other way round, and whether it is there now.

    Hair gets one colour: what turns blond is not black, and what is blond no longer is black.
    """
    wanted = attributes.get(name, 0.0) <= SURE
    turned = {**attributes, name: float(wanted)}
    if name in _HAIR:
        other = next(colour for colour in ("Black_Hair", "Brown_Hair") if colour != name)
        turned |= dict.fromkeys(_HAIR, 0.0) | {name if wanted else other: 1.0, "Bald": 0.0}
    return turned, wanted


def article(subject: str) -> str:
    """``a`` or ``an``."""
    return "an" if subject[0] in "aeiou" else "a"


def joined(parts: list[str]) -> str:
    """``bangs, eyeglasses and a goatee``."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"

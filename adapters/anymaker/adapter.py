"""AnyMaker (CustAny): any object, by a token in the text and by details in the up blocks.

Paper: CustAny: Customizing Anything from A Single Example (arXiv:2406.11643; AnyMaker in its first versions).
No code and no weights of it are public; this is built from the paper's description. *Global*: what the
encoders' class tokens say of the object changes the category word in the encoded prompt. *Local*: their patch
tokens are attended to beside the text in the up blocks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from idpersona.adapters.anymaker.config import AnyMakerConfig
from idpersona.adapters.anymaker.modules import AnyMakerCrossAttention, AnyMakerMapper
from idpersona.adapters.base import Adapter, Asked
from idpersona.adapters.config import check_sizes
from idpersona.adapters.key_values import check_geometry
from idpersona.adapters.people import People, as_people, feature_rows
from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.seams.call import Call
from idpersona.seams.cross import cross_layers
from idpersona.seams.scope import Seams
from idpersona.seams.text import TextContext, TextEmbeds, word_rows
from idpersona.seams.tokens import TokenBranch


def local_layers(unet: nn.Module) -> list[str]:
    """The cross-attention layers that AnyMaker touches: those of the up blocks."""
    return [name for name in cross_layers(unet) if name.startswith("up_blocks.")]


class GlobalEdit:
    """The global token in the seam ``text``: it moves the category word's embedding by ``scale``.

    Args:
        mapper: see :class:`AnyMakerMapper`.
        seen: tokens [people, n, dim] of each encoder.
        words: category words, the first that a prompt holds is taken.
        scale: 1 puts the global token in the word's place.
    """

    name = "anymaker"

    def __init__(self, mapper: AnyMakerMapper, seen: Sequence[Tensor], words: Sequence[str], scale: float):
        self.mapper, self.seen, self.words, self.scale = mapper, seen, words, scale

    @torch.no_grad()
    def edit(self, embeds: TextEmbeds, context: TextContext) -> TextEmbeds:
        prompt = embeds.prompt.clone()
        rows = len(prompt)
        encoder = context.encoders[0]
        for row, person in enumerate(Call(rows=rows).row_index(len(self.seen[0]), unconditional=False)):
            places = self._places(encoder.tokenizer, encoder.prompt_of(row, rows))
            seen = [tokens[person : person + 1] for tokens in self.seen]
            word = prompt[row, places].mean(dim=0, keepdim=True)
            change = self.mapper.global_token(seen, word) - word
            prompt[row, places] += self.scale * change
        return dataclasses.replace(embeds, prompt=prompt)

    def _places(self, tokenizer: Any, text: str) -> list[int]:
        for word in self.words:
            if places := word_rows(tokenizer, text, word):
                return places
        raise BadInput(
            f"anymaker: the prompt '{text}' does not name the object: it holds none of "
            f"{', '.join(self.words[:8])}; say what it is with word='dog' (--set word=dog)"
        )


class AnyMaker(Adapter):
    """See the module's docstring.

    Args:
        mapper: tokens of the encoders to the global and the local ones.
        cross_attention: keys and values of the local tokens for each layer of the up blocks.
        config: which encoders, and the category words.

    ``attach``: ``scale`` may name ``identity`` (local) and ``global``. A word of the prompt has no place on
    the canvas and acts in every step: with a mask, regions or a window the global part is left out. While
    drawing, a prompt that does not hold the word raises BadInput.

    Options:
        word: the category word of the prompt that stands for the object.
    """

    name: ClassVar[str] = "anymaker"
    config_class = AnyMakerConfig
    components: ClassVar[Mapping[str, type[Any]]] = {
        "mapper": AnyMakerMapper,
        "cross_attention": AnyMakerCrossAttention,
    }
    scaled: ClassVar[tuple[str, ...]] = ("identity", "global")
    draws: ClassVar[str | None] = None  # a face is refused with a better hint
    options: ClassVar[Mapping[str, type]] = {"word": str}

    def __init__(
        self,
        mapper: AnyMakerMapper,
        cross_attention: AnyMakerCrossAttention,
        config: AnyMakerConfig | None = None,
    ):
        self.mapper, self.cross_attention = mapper, cross_attention
        self.config = config or AnyMakerConfig()
        wrong = ["encoders"] if len(self.config.encoders) != len(self.config.dims) else []
        check_sizes(mapper, self.config.mapper_sizes(), "AnyMaker's mapper", wrong=wrong)

    def check_fits(self, unet: nn.Module) -> None:
        check_geometry(self.cross_attention, unet, "AnyMaker", local_layers(unet))

    def read(self, photos: Any, **options: Any) -> Identity:
        """Read an object; ``mask`` as for :func:`idpersona.read_identity`, by default the configuration's."""
        from idpersona import read_identity

        usual = {"encoder": self.encoders, "subject": self.subject, "mask": self.config.mask}
        given: dict[str, Any] = {**usual, **options}
        return read_identity(photos, **given)

    @torch.no_grad()
    def seen(self, people: People) -> list[Tensor]:
        """Tokens [people, photos, n, dim] of each encoder, after the mapper's blocks.

        Raises:
            IdentityFileError: an identity lacks the feature of an encoder.
            BadInput: a feature has another size, an identity is a face's, or objects of one batch have
                different numbers of photos.
        """
        things = as_people(people, self.name)
        for thing in things:
            if thing.kind != "object":
                raise BadInput(
                    f"{self.name} draws objects, and this identity is a {thing.kind}: read the photo as one, "
                    "with a mask (--subject object --mask MASK.png, or --mask face for a face)"
                )
            thing.require(self.encoders, needed_by=self.name)
        tokens = []
        for encoder, dim in zip(self.config.encoders, self.config.dims, strict=True):
            rows = [
                torch.tensor(feature_rows(thing, encoder, dim, self.name)).unflatten(
                    0, (-1, thing.features[encoder].tokens)
                )
                for thing in things
            ]
            if len({row.shape for row in rows}) > 1:
                raise BadInput("objects drawn in one batch must each have the same number of photos")
            tokens.append(torch.stack(rows).to(self.device))
        return self._mixed(tokens)

    def _mixed(self, tokens: Sequence[Tensor]) -> list[Tensor]:
        mixed = self.mapper.mixed([part.flatten(0, 1) for part in tokens])
        return [rows.unflatten(0, part.shape[:2]) for rows, part in zip(mixed, tokens, strict=True)]

    def _local(self, tokens: Sequence[Tensor]) -> Tensor:
        return self.mapper.local_tokens([part.flatten(1, 2) for part in tokens])

    @torch.no_grad()
    def seams(self, asked: Asked) -> Seams:
        placed = asked.placed
        seen = [self.seen(place.people) for place in placed.places]
        cross = [
            TokenBranch(
                self.cross_attention,
                self._local(each),
                unconditional=self._local(self._mixed([torch.zeros_like(part[:1]) for part in each])),
                scale=asked.scales["identity"],
                scales=asked.layers,
                mask=place.mask,
                start=asked.start,
                end=asked.end,
            )
            for place, each in zip(placed.places, seen, strict=True)
        ]
        whole = placed.regions is None and placed.places[0].mask is None
        if not (asked.scales["global"] and whole and asked.start == 0.0 and asked.end == 1.0):
            return Seams(cross=cross)
        words = (asked.options["word"],) if "word" in asked.options else self.config.words
        # What each photo's class token says, averaged over the photos of an object.
        classes = [part[:, :, 0].mean(dim=1, keepdim=True) for part in seen[0]]
        return Seams(cross=cross, text=[GlobalEdit(self.mapper, classes, words, asked.scales["global"])])

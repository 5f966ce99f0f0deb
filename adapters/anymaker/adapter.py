"""AnyMaker (CustAny): any object, by a token in the text and by details in the up blocks.

Paper: CustAny: Customizing Anything from A Single Example (arXiv:2406.11643; AnyMaker in its first versions).
No code and no weights of it are public; this is built from the paper's description. *Global*: what the
encoders' class tokens say of the object changes the category word in the encoded prompt. *Local*: their patch
tokens are attended to beside the text in the up blocks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from idpersona.adapters.anymaker.config import AnyMakerConfig
from idpersona.adapters.anymaker.modules import AnyMakerCrossAttention, AnyMakerMapper
from idpersona.adapters.base import Adapter, People, as_people, feature_rows, read_head
from idpersona.adapters.checkpoint import load_component
from idpersona.adapters.config import check_sizes
from idpersona.adapters.key_values import check_geometry
from idpersona.adapters.placing import place_people
from idpersona.errors import BadInput, SeamError
from idpersona.identity import Identity
from idpersona.seams.cross import cross_layers
from idpersona.seams.scale import check_scale
from idpersona.seams.scope import attach_scope, denoiser
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
        rows, people = len(prompt), len(self.seen[0])
        if rows % people:
            raise SeamError(f"{rows} pictures cannot be shared among {people} identities")
        encoder = context.encoders[0]
        for row in range(rows):
            person = row * people // rows
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
    """

    name: ClassVar[str] = "anymaker"
    config_class = AnyMakerConfig
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

    @property
    def parts(self) -> dict[str, nn.Module]:
        return {"mapper": self.mapper, "cross_attention": self.cross_attention}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> Self:
        """Load from our own layout; there is no published one.

        Raises:
            CheckpointError: keys, shapes or configuration do not fit.
        """
        folder = Path(folder)
        head = read_head(folder, cls.name)
        if options:
            raise BadInput(f"{folder} states its own configuration: no {', '.join(options)} can be given")
        return cls(
            load_component(AnyMakerMapper, folder / "mapper"),
            load_component(AnyMakerCrossAttention, folder / "cross_attention"),
            AnyMakerConfig.from_dict(head["config"]),
        )

    def check_fits(self, unet: nn.Module) -> None:
        check_geometry(self.cross_attention, unet, "AnyMaker", local_layers(unet))

    def read(self, photos: Any, **options: Any) -> Identity:
        """Read an object; ``mask`` as for :func:`idpersona.read_identity`, by default the configuration's."""
        from idpersona import read_identity

        given: dict[str, Any] = {"subject": self.subject, "mask": self.config.mask, **options}
        return read_identity(photos, encoder=self.encoders, **given)

    @torch.no_grad()
    def seen(self, people: People) -> list[Tensor]:
        """Tokens [people, n, dim] of each encoder; those of several photos of one object follow each other.

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
            rows = [feature_rows(thing, encoder, dim, self.name) for thing in things]
            if len({len(row) for row in rows}) > 1:
                raise BadInput("objects drawn in one batch must each have the same number of photos")
            tokens.append(torch.stack([torch.tensor(row) for row in rows]).to(self.device))
        return tokens

    @contextlib.contextmanager
    def attach(
        self,
        pipe: Any,
        identity: People | Mapping[Identity, Any] | None = None,
        *,
        scale: float | Mapping[str, float] = 1.0,
        pose: Any = None,
        mask: Any = None,
        start: float = 0.0,
        end: float = 1.0,
        **options: Any,
    ) -> Iterator[None]:
        """See :meth:`Adapter.attach`. AnyMaker holds no pose.

        ``scale`` may name ``identity`` (local), ``global`` and layer patterns such as ``up_blocks.0``, which
        replace ``identity`` there. A word of the prompt has no place on the canvas and acts in every step:
        with a mask, regions or a window the global part is left out.

        Options:
            word: the category word of the prompt that stands for the object.

        Raises:
            BadInput: while drawing, a prompt that does not hold the word.
        """
        self.check_options({"start": start, "end": end, **options})
        if pose is not None:
            raise BadInput(f"{self.name} holds no pose: leave pose out")
        named = dict(scale) if isinstance(scale, Mapping) else {"identity": scale, "global": scale}
        own = check_scale(named.pop("identity", 1.0), "scale identity")
        whole = mask is None and not isinstance(identity, Mapping) and start == 0.0 and end == 1.0
        everywhere = check_scale(named.pop("global", 1.0), "scale global") if whole else 0.0
        named.pop("global", None)
        placed = place_people(identity, self.name, mask, pipe)
        seen = [self.seen(place.people) for place in placed.places]
        self.check_fits(denoiser(pipe))
        self.to(pipe._execution_device)
        seen = [[tokens.to(self.device) for tokens in each] for each in seen]
        with torch.no_grad():
            cross = [
                TokenBranch(
                    self.cross_attention,
                    self.mapper.local_tokens(each),
                    unconditional=self.mapper.local_tokens([torch.zeros_like(t[:1]) for t in each]),
                    scale=own,
                    scales=named,
                    mask=place.mask,
                    start=start,
                    end=end,
                )
                for place, each in zip(placed.places, seen, strict=True)
            ]
        words = (options["word"],) if "word" in options else self.config.words
        edits = [GlobalEdit(self.mapper, seen[0], words, everywhere)] if everywhere else []
        with attach_scope(pipe, cross=cross, text=edits):
            yield

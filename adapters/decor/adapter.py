"""DECOR: take what shall not be drawn out of the encoded prompt. Nothing is trained.

Paper: DECOR, decomposition and projection of text embeddings (arXiv:2412.09169). Which tokens are undesired
is left open there; here they are named by words of the prompt, by a second prompt, or are the padding.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from idpersona.adapters.base import Adapter, read_head
from idpersona.adapters.decor.projection import decor
from idpersona.adapters.people import People
from idpersona.errors import BadInput, CheckpointError
from idpersona.identity import Identity
from idpersona.seams.scale import check_scale
from idpersona.seams.scope import attach_scope
from idpersona.seams.text import (
    Encoder,
    TextContext,
    TextEmbeds,
    listed,
    padding_rows,
    text_rows,
    word_rows,
)

_NO_PLACE = "decor edits the text before the first step"


@dataclass(frozen=True)
class Choice:
    """Which tokens are undesired, one of the first three, and what is done with them.

    Attributes:
        words: words of the prompt, separated by commas.
        prompt: a second prompt; those of its words count that the user's own prompt does not have (all, where
            the pipeline is given embeddings instead of words).
        padding: this many of the strongest axes of the padding.
        keep: words of the prompt, separated by commas, whose span stays as it is.
        axes: at most so many axes are taken out, the strongest; None takes all.
        both: the negative prompt is edited, too.
        pooled: the pooled vector is edited, too (SDXL, with ``prompt``).
    """

    words: str = ""
    prompt: str = ""
    padding: int = 0
    keep: str = ""
    axes: int | None = None
    both: bool = False
    pooled: bool = False

    def __post_init__(self) -> None:
        if sum(map(bool, (self.words, self.prompt, self.padding))) != 1:
            raise BadInput(
                "decor needs to know what shall not be drawn: one of words='hat' (of the prompt), "
                "prompt='a photo of a hat' (a second prompt) or padding=2 (axes of the padding)"
            )
        if self.padding < 0 or (self.axes is not None and self.axes < 1):
            raise BadInput("padding and axes of decor are whole numbers of at least 1")
        if self.pooled and not self.prompt:
            raise BadInput("pooled of decor needs prompt: words and padding have no pooled vector")


class Edit:
    """The edit in the seam ``text``; ``alpha`` as for :func:`~idpersona.adapters.decor.projection.decor`."""

    name = "decor"

    def __init__(self, choice: Choice, alpha: float):
        self.choice, self.alpha = choice, alpha

    def edit(self, embeds: TextEmbeds, context: TextContext) -> TextEmbeds:
        choice = self.choice
        second = context.encode(choice.prompt) if choice.prompt else None
        prompt = embeds.prompt.clone()
        negative = None if embeds.negative is None else embeds.negative.clone()
        pooled = embeds.pooled
        rows, found = len(prompt), 0
        for encoder in context.encoders:
            other = None if second is None else second.prompt[0, :, encoder.columns]
            for row in range(rows):
                own = embeds.prompt[row, :, encoder.columns]
                # Embeddings given instead of words: a second prompt needs no words of the first.
                given = encoder.prompts is None and choice.prompt and not choice.keep
                text = "" if given else encoder.prompt_of(row, rows)
                undesired = self._undesired(encoder, text, own, other)
                if not len(undesired):
                    continue
                found += 1
                keep = self._kept(encoder, text, own)
                prompt[row, :, encoder.columns] = self._project(own, undesired, keep)
                if choice.both and negative is not None and embeds.negative is not None:
                    per = rows // len(negative)
                    negative[row // per, :, encoder.columns] = self._project(
                        embeds.negative[row // per, :, encoder.columns], undesired, keep
                    )
        if not found and choice.words:
            raise BadInput(f"decor: the prompt does not hold '{choice.words}'")
        if not found:
            raise BadInput(
                f"decor: '{choice.prompt or 'the padding'}' holds nothing that the prompt does not"
            )
        if choice.pooled and pooled is not None and second is not None and second.pooled is not None:
            pooled = decor(pooled, second.pooled, self.alpha)
        return dataclasses.replace(embeds, prompt=prompt, negative=negative, pooled=pooled)

    def _project(self, rows: Tensor, undesired: Tensor, keep: Tensor | None) -> Tensor:
        return decor(rows, undesired, self.alpha, keep=keep, axes=self.choice.axes)

    def _undesired(self, encoder: Encoder, text: str, own: Tensor, other: Tensor | None) -> Tensor:
        """Rows [m, d] whose span is taken out of the rows ``own`` of ``text``."""
        choice, tokenizer = self.choice, encoder.tokenizer
        if choice.words:
            return own[_places(tokenizer, text, choice.words)]
        if other is not None:
            # What the user asks for is never undesired, whatever the second prompt holds.
            words = {word.strip(".,;:!?\"'()").lower() for word in text.split()}
            shared = [w for w in choice.prompt.split() if w.strip(".,;:!?\"'()").lower() in words]
            spared = {n for word in shared for n in word_rows(tokenizer, choice.prompt, word)}
            return other[[n for n in text_rows(tokenizer, choice.prompt) if n not in spared]]
        padding = own[padding_rows(tokenizer, text)]
        basis = torch.linalg.svd(padding.float(), full_matrices=False)[2]
        return basis[: choice.padding].to(own)

    def _kept(self, encoder: Encoder, text: str, own: Tensor) -> Tensor | None:
        if not self.choice.keep:
            return None
        places = _places(encoder.tokenizer, text, self.choice.keep)
        if not places:
            raise BadInput(
                f"decor: the prompt '{text}' does not hold '{self.choice.keep}', which is to be kept"
            )
        return own[places]


def _places(tokenizer: Any, text: str, words: str) -> list[int]:
    return sorted({n for part in listed(words) for n in word_rows(tokenizer, text, part)})


class Decor(Adapter):
    """See the module's docstring and :class:`Choice`, whose fields are the options of :meth:`attach`."""

    name: ClassVar[str] = "decor"
    default_scale: ClassVar[float] = 0.5
    options: ClassVar[Mapping[str, type]] = {
        "words": str,
        "prompt": str,
        "padding": float,
        "keep": str,
        "axes": float,
        "both": bool,
        "pooled": bool,
    }

    @property
    def encoders(self) -> tuple[str, ...]:
        return ()

    def config_dict(self) -> dict[str, Any]:
        return {}

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], **options: Any) -> Self:
        """From a folder that ``save_pretrained`` wrote; nothing of it is needed, see ``load_adapter``."""
        if options:
            raise BadInput(f"decor has no configuration: no {', '.join(options)} can be given")
        if config := read_head(folder, cls.name)["config"]:
            raise CheckpointError(f"{folder}: decor has no configuration, got {', '.join(config)}")
        return cls()

    def check_fits(self, unet: nn.Module) -> None:
        """Fits every base."""

    def read(self, photos: Any, **options: Any) -> Identity:
        raise BadInput("decor keeps no identity: attach it with words=, prompt= or padding=")

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        super().check_options(options)
        if options.get("start", 0.0) != 0.0 or options.get("end", 1.0) != 1.0:
            raise BadInput(f"{_NO_PLACE}: it has no start and end")
        cls._choice(options)

    @staticmethod
    def _choice(options: Mapping[str, Any]) -> Choice:
        values = {name: value for name, value in options.items() if name not in ("start", "end")}
        for name in ("padding", "axes"):
            if name in values:
                if values[name] != int(values[name]):
                    raise BadInput(f"{name} of decor is a whole number, got {values[name]}")
                values[name] = int(values[name])
        return Choice(**values)

    @contextlib.contextmanager
    def attach(
        self,
        pipe: Any,
        identity: People | Mapping[Identity, Any] | None = None,
        *,
        scale: float | Mapping[str, float] | None = None,
        pose: Any = None,
        mask: Any = None,
        start: float = 0.0,
        end: float = 1.0,
        **options: Any,
    ) -> Iterator[None]:
        """See :meth:`Adapter.attach`; ``scale`` is the degree alpha, 0..1, and options are :class:`Choice`'s.

        Raises:
            BadInput: an identity, a pose, a mask or a window, none of which a text has; while drawing, words
                that the prompt does not hold.
        """
        self.check_options({"start": start, "end": end, **options})
        if identity is not None:
            raise BadInput("decor keeps no identity: attach it beside an adapter that does")
        if pose is not None or mask is not None:
            raise BadInput(f"{_NO_PLACE}: it has no pose and no mask")
        if isinstance(scale, Mapping):
            raise BadInput("the scale of decor is one number")
        alpha = check_scale(self.default_scale if scale is None else scale)
        if alpha > 1:
            raise BadInput(f"DECOR's scale is a degree from 0 to 1, got {alpha}")
        edits = [Edit(self._choice(options), alpha)] if alpha else []
        with attach_scope(pipe, text=edits):
            yield

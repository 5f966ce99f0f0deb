"""Infinite-ID: identity tokens beside the text, and self-attention that also sees the picture without them.

Paper: Infinite-ID: Identity-preserved Personalization via ID-semantics Decoupling Paradigm
(arXiv:2403.11781). No code and no weights of it are public; this is built from the paper's description. A
second stream draws the prompt alone; at every step the picture's self-attention reads its keys and values,
too, which keeps the meaning of the prompt, while the identity's cross-attention, trained without any text,
keeps the person.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from idpersona.adapters.base import Adapter, Asked
from idpersona.adapters.config import check_sizes
from idpersona.adapters.infinite_id.config import InfiniteIDConfig
from idpersona.adapters.infinite_id.modules import InfiniteIDCrossAttention, InfiniteIDMapper
from idpersona.adapters.key_values import check_geometry
from idpersona.adapters.people import People, as_people, feature_rows
from idpersona.errors import BadInput
from idpersona.seams.scale import check_scale, check_window, matching
from idpersona.seams.scope import Seams, denoiser
from idpersona.seams.self_attention import MixedBranch, adain_mean, self_layers
from idpersona.seams.stream import SecondStream
from idpersona.seams.tokens import TokenBranch, TokenTerm

CHEAP_LAYERS, CHEAP_END = "up_blocks", 0.6
"""The cheap preset: mixed attention in the decoder only, and no second stream in the last steps."""


class _Merged(TokenTerm):
    """``scale * R + (text - 1) * T``, R shifted to the mean of T first if styles are merged."""

    branch: MergedBranch

    def attention(self, attn: Any, query: Tensor, text: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        result = self.branch.kernel(attn, query, keys, values, None)
        if self.branch.style_merge:
            result = adain_mean(result, text)
        result = result * self.scale
        return result if self.branch.text == 1.0 else result + (self.branch.text - 1.0) * text


class MergedBranch(TokenBranch):
    """Identity and text, each attended to alone, are summed with weights of their own.

    Args:
        text: weight of the text's result.
        style_merge: the identity's result gets the mean over positions of the text's (AdaIN-mean).
        others: as for :class:`~idpersona.seams.tokens.TokenBranch`.
    """

    term = _Merged

    def __init__(self, *args: Any, text: float = 1.0, style_merge: bool = False, **others: Any):
        super().__init__(*args, **others)
        self.text, self.style_merge = check_scale(text, "text"), style_merge


class InfiniteID(Adapter):
    """See the module's docstring.

    Args:
        mapper: encoder features to identity tokens.
        cross_attention: keys and values of the tokens for each layer.
        config: which encoders, and the defaults of options.

    ``attach``: ``scale`` may name ``identity`` (cross-attention) and ``mixed`` (how strongly the second
    stream is read; 0 saves its pass). One number is meant for ``identity``.

    Options:
        style_merge: take the style of the second stream over (AdaIN-mean in both attentions).
        text: weight of the text's cross-attention beside the identity's.
        mixed_layers: layer pattern that mixed attention is limited to.
        mixed_start, mixed_end: its window, where it differs from ``start`` and ``end``.
        cheap: mixed attention in the up blocks and the first 60 % of the steps only.
    """

    name: ClassVar[str] = "infinite-id"
    config_class = InfiniteIDConfig
    components: ClassVar[Mapping[str, type[Any]]] = {
        "mapper": InfiniteIDMapper,
        "cross_attention": InfiniteIDCrossAttention,
    }
    scaled: ClassVar[tuple[str, ...]] = ("identity", "mixed")
    options: ClassVar[Mapping[str, type]] = {
        "style_merge": bool,
        "text": float,
        "mixed_layers": str,
        "mixed_start": float,
        "mixed_end": float,
        "cheap": bool,
    }

    def __init__(
        self,
        mapper: InfiniteIDMapper,
        cross_attention: InfiniteIDCrossAttention,
        config: InfiniteIDConfig | None = None,
    ):
        self.mapper, self.cross_attention = mapper, cross_attention
        self.config = config or InfiniteIDConfig()
        check_sizes(mapper, self.config.mapper_sizes(), "Infinite-ID's mapper")

    def check_fits(self, unet: nn.Module) -> None:
        check_geometry(self.cross_attention, unet, "Infinite-ID")

    @torch.no_grad()
    def tokens(self, people: People) -> Tensor:
        """Identity tokens [people, n, output_dim]; n grows with the photos of an identity that keeps several.

        Raises:
            IdentityFileError: an identity lacks the feature of an encoder.
            BadInput: a feature has another size, or people of one batch have different numbers of photos.
        """
        rows, config = [], self.config
        for person in as_people(people, self.name, "face", self.encoders):
            image = feature_rows(person, config.image_encoder, config.image_dim, self.name)
            if len(image) % config.image_tokens:
                raise BadInput(
                    f"feature '{config.image_encoder}' has {len(image)} rows, {self.name} takes "
                    f"{config.image_tokens} for each photo"
                )
            face = feature_rows(person, config.face_encoder, config.face_dim, self.name).mean(axis=0)
            device = self.device
            rows.append(
                self.mapper(torch.tensor(image, device=device)[None], torch.tensor(face, device=device)[None])
            )
        if len({row.shape[1] for row in rows}) > 1:
            raise BadInput(
                "people drawn in one batch must each have the same number of photos (or merge='mean')"
            )
        return torch.cat(rows)

    @torch.no_grad()
    def unconditional_tokens(self, tokens: int | None = None) -> Tensor:
        """What unconditional rows see: the mapper applied to zeros, [1, tokens, output_dim].

        ``tokens`` is the number beside them; None takes that of one photo.
        """
        config, device = self.config, self.device
        image = config.image_tokens if tokens is None else tokens - config.face_tokens
        return self.mapper(
            torch.zeros(1, image, config.image_dim, device=device),
            torch.zeros(1, config.face_dim, device=device),
        )

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        super().check_options(options)
        start = options.get("mixed_start", options.get("start", 0.0))
        end = min(
            options.get("mixed_end", options.get("end", 1.0)), CHEAP_END if options.get("cheap") else 1.0
        )
        check_window(start, end, "mixed_start and mixed_end")

    def strengths(self, scale: float | Mapping[str, float]) -> dict[str, float]:
        if not isinstance(scale, Mapping):
            # Of strength 0 nothing is left, not even the second stream.
            scale = {"identity": scale, **({"mixed": 0.0} if scale == 0 else {})}
        return {"mixed": self.config.mixed, **scale}

    def seams(self, asked: Asked) -> Seams:
        placed, options = asked.placed, asked.options
        style = options.get("style_merge", self.config.style_merge)
        cross = []
        for place in placed.places:
            tokens = self.tokens(place.people)
            cross.append(
                MergedBranch(
                    self.cross_attention,
                    tokens,
                    unconditional=self.unconditional_tokens(tokens.shape[1]),
                    scale=asked.scales["identity"],
                    scales=asked.layers,
                    mask=place.mask,
                    start=asked.start,
                    end=asked.end,
                    text=options.get("text", self.config.text),
                    style_merge=style,
                )
            )
        strength = asked.scales["mixed"]
        if not strength:
            return Seams(cross=cross)
        cheap = options.get("cheap", False)
        end = min(options.get("mixed_end", asked.end), CHEAP_END if cheap else 1.0)
        pattern = options.get("mixed_layers", CHEAP_LAYERS if cheap else "*")
        stream = SecondStream(asked.pipe, end=end)
        mixed = MixedBranch(
            stream,
            matching(list(self_layers(denoiser(asked.pipe))), pattern, "mixed_layers"),
            strength=strength,
            style_merge=style,
            mask=placed.anybody if placed.regions else placed.places[0].mask,
            start=options.get("mixed_start", asked.start),
            end=end,
        )
        return Seams(cross=cross, self_attention=[mixed], streams=[stream])

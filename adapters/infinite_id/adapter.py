"""Infinite-ID: identity tokens beside the text, and self-attention that also sees the picture without them.

Paper: Infinite-ID: Identity-preserved Personalization via ID-semantics Decoupling Paradigm
(arXiv:2403.11781). No code and no weights of it are public; this is built from the paper's description. A
second stream draws the prompt alone; at every step the picture's self-attention reads its keys and values,
too, which keeps the meaning of the prompt, while the identity's cross-attention, trained without any text,
keeps the person.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from idpersona.adapters.base import Adapter, People, as_people, feature_rows, read_head
from idpersona.adapters.checkpoint import load_component
from idpersona.adapters.config import check_sizes
from idpersona.adapters.infinite_id.config import InfiniteIDConfig
from idpersona.adapters.infinite_id.modules import InfiniteIDCrossAttention, InfiniteIDMapper
from idpersona.adapters.key_values import check_geometry
from idpersona.adapters.placing import place_people
from idpersona.errors import BadInput
from idpersona.identity import Identity
from idpersona.seams.scale import check_scale, check_window, matching
from idpersona.seams.scope import attach_scope, denoiser
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
    """

    name: ClassVar[str] = "infinite-id"
    config_class = InfiniteIDConfig
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
            load_component(InfiniteIDMapper, folder / "mapper"),
            load_component(InfiniteIDCrossAttention, folder / "cross_attention"),
            InfiniteIDConfig.from_dict(head["config"]),
        )

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
        """See :meth:`Adapter.attach`. Infinite-ID holds no pose.

        ``scale`` may name ``identity`` (cross-attention), ``mixed`` (how strongly the second stream is read;
        0 saves its pass) and layer patterns such as ``up_blocks.0``, which replace ``identity`` there.

        Options:
            style_merge: take the style of the second stream over (AdaIN-mean in both attentions).
            text: weight of the text's cross-attention beside the identity's.
            mixed_layers: layer pattern that mixed attention is limited to.
            mixed_start, mixed_end: its window, where it differs from ``start`` and ``end``.
            cheap: mixed attention in the up blocks and the first 60 % of the steps only.
        """
        self.check_options({"start": start, "end": end, **options})
        if pose is not None:
            raise BadInput(f"{self.name} holds no pose: leave pose out, or attach instantid beside it")
        named = dict(scale) if isinstance(scale, Mapping) else {"identity": scale}
        own = check_scale(named.pop("identity", 1.0), "scale identity")
        nothing = not isinstance(scale, Mapping) and own == 0
        mixed = check_scale(named.pop("mixed", 0.0 if nothing else self.config.mixed), "scale mixed")
        placed = place_people(identity, self.name, mask, pipe, kind="face")
        model = denoiser(pipe)
        self.check_fits(model)
        self.to(pipe._execution_device)
        style = options.get("style_merge", self.config.style_merge)
        cross = []
        for place in placed.places:
            tokens = self.tokens(place.people)
            cross.append(
                MergedBranch(
                    self.cross_attention,
                    tokens,
                    unconditional=self.unconditional_tokens(tokens.shape[1]),
                    scale=own,
                    scales=named,
                    mask=place.mask,
                    start=start,
                    end=end,
                    text=options.get("text", self.config.text),
                    style_merge=style,
                )
            )
        mixing, streams = [], []
        if mixed:
            first, last = options.get("mixed_start", start), options.get("mixed_end", end)
            pattern = options.get("mixed_layers", "*")
            if options.get("cheap"):
                last = min(last, CHEAP_END)
                pattern = options.get("mixed_layers", CHEAP_LAYERS)
            stream = SecondStream(pipe, end=last)
            layers = matching(list(self_layers(model)), pattern, "mixed_layers")
            where = placed.anybody if placed.regions else placed.places[0].mask
            mixing.append(
                MixedBranch(
                    stream, layers, strength=mixed, style_merge=style, mask=where, start=first, end=last
                )
            )
            streams.append(stream)
        with attach_scope(pipe, cross=cross, self_attention=mixing, streams=streams):
            yield

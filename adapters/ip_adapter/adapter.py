"""The IP-Adapter family: a picture's tokens, or a face's, beside the text in every cross-attention layer.

Paper: IP-Adapter (arXiv:2308.06721). Read from the published files, which diffusers can load as well; here
the tokens come from an identity, and detaching leaves nothing behind: neither processors nor FaceID's LoRA.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from idpersona.adapters.base import Adapter, Asked
from idpersona.adapters.ip_adapter.config import IPAdapterConfig
from idpersona.adapters.ip_adapter.convert import Published, published_file, read_published, write_published
from idpersona.adapters.ip_adapter.modules import (
    PROJECTIONS,
    IPAdapterCrossAttention,
    IPAdapterProjector,
    LowRank,
)
from idpersona.adapters.key_values import check_geometry
from idpersona.adapters.people import People, as_people, feature_rows
from idpersona.errors import BadInput, CheckpointError
from idpersona.identity import Identity
from idpersona.seams.layers import attention_layers
from idpersona.seams.linear import LowRankBranch
from idpersona.seams.scale import check_scale
from idpersona.seams.scope import Seams
from idpersona.seams.tokens import TokenBranch

IMAGE_ENCODERS = {
    "base": "clip-h-embed",
    "full": "clip-h-face-penultimate",
    "plus": "clip-h-penultimate",
    "faceid": "none",
    "faceid-plus": "clip-h-face-penultimate",
}
"""Encoder of the picture that a kind of checkpoint was published with."""
NEEDS_FACE = ("faceid", "faceid-plus")
FILES = {
    "base": "ip-adapter",
    "full": "ip-adapter-full-face",
    "plus": "ip-adapter-plus",
    "faceid": "ip-adapter-faceid",
    "faceid-plus": "ip-adapter-faceid-plus",
}
"""How the name of a published file of a kind begins."""
MARKS: dict[str, tuple[str, dict[str, Any]]] = {
    "plus": ("plus-face", {"image_encoder": "clip-h-face-penultimate"}),  # made for cut-out faces
    "faceid-plus": ("plusv2", {"shortcut": True}),
}
"""Of kinds with variants whose tensors are alike: what a file's name has for "plus", and what that says."""
FAMILIES = {768: "sd15", 2048: "sdxl"}
"""How the name of a published file ends, by the width of a token."""


class IPAdapter(Adapter):
    """See the module's docstring.

    Args:
        projector: encoder features to tokens.
        cross_attention: keys and values of the tokens for each layer.
        lora: FaceID's low-rank changes of the base's attention, or None.
        config: which encoders.

    ``attach``: ``scale`` may name ``identity`` (cross-attention) and, of FaceID, ``lora``. With a mask or
    regions FaceID's LoRA, which changes the whole picture, is left out.

    Options:
        structure: of FaceID-Plus v2, how much the picture of the face adds to the face vector.
    """

    name: ClassVar[str] = "ip-adapter"
    config_class = IPAdapterConfig
    components: ClassVar[Mapping[str, type[Any]]] = {
        "projector": IPAdapterProjector,
        "cross_attention": IPAdapterCrossAttention,
        "lora": LowRank,
    }
    optional: ClassVar[tuple[str, ...]] = ("lora",)
    scaled: ClassVar[tuple[str, ...]] = ("identity", "lora")
    draws: ClassVar[str | None] = None
    kinds: ClassVar[tuple[str, ...]] = ("base", "plus", "full")
    options: ClassVar[Mapping[str, type]] = {}

    def __init__(
        self,
        projector: IPAdapterProjector,
        cross_attention: IPAdapterCrossAttention,
        lora: LowRank | None = None,
        config: IPAdapterConfig | None = None,
    ):
        self.projector, self.cross_attention, self.lora = projector, cross_attention, lora
        self.kind: str = projector.config["kind"]
        if self.kind not in self.kinds:
            other = next(c.name for c in (IPAdapter, FaceID) if self.kind in c.kinds)
            raise CheckpointError(f"a checkpoint of kind '{self.kind}' is for '{other}', not '{self.name}'")
        self.config = config or IPAdapterConfig.from_dict(_told_by(self.kind))

    @classmethod
    def published_options(cls, unet: nn.Module) -> dict[str, Any]:
        """All attention layers: FaceID's files number self-attention, too."""
        return {"layers": [*attention_layers(unet, cross=False), *attention_layers(unet, cross=True)]}

    @classmethod
    def from_published(
        cls, path: str | os.PathLike[str], *, layers: Iterable[str] | None = None, **fields: Any
    ) -> Self:
        """Load a published file; ``layers`` are the names of all attention layers of the base, ``fields``
        those of :class:`IPAdapterConfig`.

        Raises:
            BadInput: no layers.
            CheckpointError: the file is none, is of another kind, or does not fit the layers.
        """
        if layers is None:
            raise BadInput(
                f"{path} numbers the layers of its base: load it for one, load_adapter(path, base=pipe)"
            )
        file = published_file(path)
        found = read_published(file, layers)
        adapter = cls(found.projector, found.cross_attention, found.lora)
        adapter.config = IPAdapterConfig.from_dict(_told_by(adapter.kind, file.name) | fields)
        return adapter

    @property
    def published_name(self) -> str:
        name = FILES[self.kind]
        mark, says = MARKS.get(self.kind, ("", {}))
        if says and says.items() <= self.config.to_dict().items():
            name = name.replace("plus", mark)
        width = next(size[1] for size in self.cross_attention.config["geometry"].values())
        return f"{name}_{FAMILIES.get(width, width)}.safetensors"

    def published_fields(self) -> dict[str, Any]:
        return _told_by(self.kind, self.published_name)

    def write_published(self, folder: Path) -> Sequence[str]:
        parts = Published(self.projector, self.cross_attention, self.lora)
        write_published(parts, folder / self.published_name)
        return ()

    def read(self, photos: Any, **options: Any) -> Identity:
        """Read with the encoders this adapter needs: a whole picture, for those of faces a face."""
        from idpersona import read_identity
        from idpersona.encoders import encoder_subject

        # Plus-Face and Full-Face are IP-Adapters, but look at a face.
        given: dict[str, Any] = {"subject": encoder_subject(self.encoders[0]), **options}
        return read_identity(photos, encoder=self.encoders, **given)

    def check_fits(self, unet: nn.Module) -> None:
        check_geometry(self.cross_attention, unet, self.name)
        if self.lora is not None:
            known = attention_layers(unet, cross=True) | attention_layers(unet, cross=False)
            missing = [layer for layer in self.lora.layers if layer not in known]
            if missing:
                raise CheckpointError.from_keys(
                    f"the LoRA of this {self.name} and {type(unet).__name__}", missing
                )

    def _image(self, person: Identity) -> Tensor | None:
        encoder, sizes = self.config.image_encoder, self.projector.config["sizes"]
        if encoder == "none":
            return None
        dim = {"faceid-plus": "hidden_dims", "plus": "embed_dims"}.get(self.kind, "image_embed_dim")
        values = torch.tensor(feature_rows(person, encoder, sizes[dim], self.name), device=self.device)
        tokens = person.features[encoder].tokens
        photos = values.unflatten(0, (-1, tokens)).mean(dim=0)
        return photos.mean(dim=0, keepdim=True) if self.kind == "base" else photos[None]

    def _face(self, person: Identity) -> Tensor | None:
        encoder, sizes = self.config.face_encoder, self.projector.config["sizes"]
        if encoder == "none":
            return None
        dim = sizes.get("id_embeddings_dim", sizes.get("image_embed_dim"))
        vector = feature_rows(person, encoder, dim, self.name).mean(axis=0)
        length = float(np.linalg.norm(vector))
        if length < 1e-6:
            return torch.zeros(1, dim, device=self.device)
        return torch.tensor(vector / length, device=self.device)[None]

    @torch.no_grad()
    def tokens(self, people: People, *, structure: float = 1.0) -> Tensor:
        """Tokens [people, n, width]; of several photos the features are averaged.

        ``structure``: of FaceID-Plus v2, how much the picture adds to the face vector.

        Raises:
            IdentityFileError: an identity lacks a feature that is needed.
            BadInput: a feature has another length.
        """
        rows = []
        for person in as_people(people, self.name, encoders=self.encoders):
            image, face = self._image(person), self._face(person)
            rows.append(self.projector(image, face, shortcut=self.config.shortcut, shortcut_scale=structure))
        return torch.cat(rows)

    @torch.no_grad()
    def unconditional_tokens(self, *, structure: float = 1.0) -> Tensor:
        """What unconditional rows see, as the published code has it.

        A vector of zeros for embeddings and face vectors; for hidden states those of a picture of zeros, for
        which the image encoder has to be at hand.

        Raises:
            MissingWeights: the encoder is not here.
        """
        sizes, device = self.projector.config["sizes"], self.device
        face = image = None
        if self.config.face_encoder != "none":
            face = torch.zeros(1, sizes.get("id_embeddings_dim", sizes.get("image_embed_dim")), device=device)
        if self.kind == "base":
            image = torch.zeros(1, sizes["image_embed_dim"], device=device)
        elif self.config.image_encoder != "none":
            from idpersona.encoders import get_encoder

            encoder: Any = get_encoder(self.config.image_encoder)
            image = torch.tensor(encoder.nothing(), device=device)[None]
        return self.projector(image, face, shortcut=self.config.shortcut, shortcut_scale=structure)

    def strengths(self, scale: float | Mapping[str, float]) -> dict[str, float]:
        if isinstance(scale, Mapping) and "lora" in scale and self.lora is None:
            raise BadInput(f"scale lora: this {self.name} has no LoRA")
        return super().strengths(scale)

    def seams(self, asked: Asked) -> Seams:
        if "structure" in asked.options and not (self.kind == "faceid-plus" and self.config.shortcut):
            raise BadInput("structure is an option of FaceID-Plus v2 alone")
        placed, own, low = asked.placed, asked.scales["identity"], asked.scales["lora"]
        structure = {"structure": check_scale(asked.options.get("structure", 1.0), "structure")}
        unconditional = self.unconditional_tokens(**structure) if own or asked.layers else None
        cross = [
            TokenBranch(
                self.cross_attention,
                self.tokens(place.people, **structure),
                unconditional=unconditional,
                scale=own,
                scales=asked.layers,
                mask=place.mask,
                start=asked.start,
                end=asked.end,
            )
            for place in placed.places
        ]
        changes = []
        if self.lora is not None and low and placed.regions is None and placed.places[0].mask is None:
            for layer in self.lora.layers:
                for projection, place in PROJECTIONS.items():
                    down, up = self.lora.pair(layer, projection)
                    changes.append(LowRankBranch(f"{layer}.{place}", down, up, low, asked.start, asked.end))
        return Seams(cross=cross, low_rank=changes)


class FaceID(IPAdapter):
    """IP-Adapter FaceID, FaceID-Plus and FaceID-Plus v2: a recogniser's vector instead of the picture."""

    name: ClassVar[str] = "faceid"
    kinds: ClassVar[tuple[str, ...]] = NEEDS_FACE
    options: ClassVar[Mapping[str, type]] = {"structure": float}


def _told_by(kind: str, file: str = "") -> dict[str, Any]:
    """The configuration that follows from a kind and from the name of a published file."""
    face = "buffalo_l" if kind in NEEDS_FACE else "none"
    mark, says = MARKS.get(kind, ("", {}))
    return {"image_encoder": IMAGE_ENCODERS[kind], "face_encoder": face} | (
        says if says and mark in file.lower() else {}
    )

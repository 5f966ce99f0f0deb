"""What a photo shows beside the person, told apart while a persona is learnt (DisenBooth, arXiv:2305.03374).

An adapter makes of a photo's embedding a vector that is added to every token of the prompt; so the photo's
pose and background need not be learnt as part of the words. The prompt alone has to do as well, if with
little weight (weak denoising), and the two must not say the same (contrast). Afterwards the LoRA is used with
the prompt alone. The adapter is kept beside it; no pipeline puts a photo's surroundings back by it yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from idpersona.encoders import encoder_names, get_encoder
from idpersona.encoders.vit import ObjectTokens, TokenModel
from idpersona.errors import UnknownName


class DisenBoothConfig(BaseModel):
    """How a photo's surroundings are told apart.

    Attributes:
        encoder: reads the photos: an encoder of whole pictures by its name, or the folder of a vision model,
            as CLIP (published: ViT-H/14, ``clip-h-embed``). Of several tokens the first, the class token.
        weak: weight of the denoising error with the prompt alone.
        contrast: weight of the cosine between the prompt's mean token and what is added to it.
        squared: that cosine squared, which is smallest where they are orthogonal. As published it is not, and
            smallest where they are opposite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str = "mini-vit-object"
    weak: float = Field(0.01, ge=0)
    contrast: float = Field(0.001, ge=0)
    squared: bool = False


class ImageAdapter(ModelMixin, ConfigMixin):
    """Embeddings of pictures [B, dim] to what is added to each token of a prompt, [B, 1, width].

    A learnt mask of the channels, a small network with a residual, and a projection where the widths differ.
    ``encoder`` is what reads the pictures.
    """

    @register_to_config
    def __init__(self, dim: int, width: int, encoder: str = ""):
        super().__init__()
        self.mask = nn.Parameter(torch.zeros(dim))
        self.mlp = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.project = nn.Identity() if dim == width else nn.Linear(dim, width)

    def forward(self, embeddings: Tensor) -> Tensor:
        kept = torch.sigmoid(self.mask) * embeddings
        return self.project(self.mlp(kept) + kept)[:, None]


def embed_pictures(name: str, pictures: Sequence[Image.Image]) -> Tensor:
    """What the encoder ``name`` (see :class:`DisenBoothConfig`) says of pictures, float32 [n, dim].

    Raises:
        UnknownName: there is neither such an encoder nor such a folder.
        MissingWeights: its weights are not on this machine, or damaged.
    """
    encoder: Any
    if (Path(name) / "config.json").is_file():
        model = TokenModel(name, name)
        model.output = "embed" if model.is_clip else "last"
        encoder = ObjectTokens(name, model, licence="not known")
    elif name in encoder_names("object"):
        encoder = get_encoder(name)
    else:
        raise UnknownName("encoder of whole pictures, or folder of one,", name, encoder_names("object"))
    return torch.from_numpy(
        np.stack([encoder.embed_image(picture.convert("RGB"))[0] for picture in pictures])
    )


def overlap(text: Tensor, added: Tensor, *, squared: bool) -> Tensor:
    """Cosine [B] of the mean token of prompts [B, n, d] and of what is added to them, [B, 1, d]."""
    cosine = F.cosine_similarity(text.mean(dim=1), added[:, 0].to(text), dim=1)
    return cosine.square() if squared else cosine

"""Vision transformers of ``transformers`` as encoders: class and patch tokens of a face or of any object.

Any model that ``AutoModel`` loads and that answers with ``last_hidden_state`` will do: CLIP's vision half,
DINOv2, ViT-MAE, SigLIP, or the small ViT of the embedded model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from idpersona.encoders.base import Measure
from idpersona.encoders.files import sha256_of
from idpersona.errors import MissingWeights, first_line

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and spread of the colours that CLIP was trained with (arXiv:2103.00020)."""


def all_tokens(model: Any, pictures: Tensor) -> Tensor:
    """Last hidden states [B, 1 + patches, dim], class token first, of pictures [B, 3, H, W].

    ``ViTMAEModel`` drops and shuffles patches even with a mask ratio of 0, by noise that it draws itself; it
    is given noise here that keeps all of them in their order.
    """
    options: dict[str, Any] = {}
    if model.config.model_type == "vit_mae":
        patches = (model.config.image_size // model.config.patch_size) ** 2
        noise = torch.linspace(0, 1, patches, device=pictures.device)
        options["noise"] = noise.expand(len(pictures), -1)
    return model(pictures.to(model.dtype), **options).last_hidden_state


class TokenModel:
    """A vision transformer in a folder: RGB pictures to tokens, float32 on the CPU.

    Args:
        name: of the weights, for messages.
        folder: of ``transformers``, with ``config.json`` and safetensors; its ``preprocessor_config.json``
            says mean and spread of the colours (where there is none: CLIP's for CLIP, else ImageNet's).
        side: width and height of its pictures in pixels, for models that take several; None: the model's own.
        output: ``last`` hidden states, ``penultimate`` ones, or the one ``embed`` of CLIP's projection.

    Raises:
        MissingWeights: nothing that can be loaded lies there.
    """

    def __init__(
        self,
        name: str,
        folder: str | Path,
        side: int | None = None,
        output: Literal["last", "penultimate", "embed"] = "last",
    ):
        self.name, self.folder, self._side, self.output = name, Path(folder), side, output
        if not (self.folder / "config.json").is_file():
            raise MissingWeights(
                f"encoder '{name}' needs its weights in {self.folder}: run idpersona models pull {name}"
            )

    @cached_property
    def model(self) -> Any:
        """The network, loaded when it is first needed."""
        from transformers import AutoModel, CLIPVisionModel, CLIPVisionModelWithProjection

        clip: Any = CLIPVisionModelWithProjection if self.output == "embed" else CLIPVisionModel
        loader: Any = clip if self.is_clip else AutoModel
        try:
            model: Any = loader.from_pretrained(self.folder, dtype=torch.float32, local_files_only=True)
        except Exception as error:  # transformers and safetensors share no error type for a damaged folder
            raise MissingWeights(f"encoder '{self.name}' in {self.folder}: {first_line(error)}") from error
        model = model.eval().requires_grad_(False)
        if model.config.model_type == "vit_mae":
            model.config.mask_ratio = 0.0
        return model

    @cached_property
    def is_clip(self) -> bool:
        """Whether its configuration is CLIP's."""
        stated = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return str(stated.get("model_type", "")).startswith("clip")

    @property
    def side(self) -> int:
        """Width and height of its pictures in pixels."""
        return self._side or int(self.model.config.image_size)

    @property
    def dim(self) -> int:
        """Length of a token."""
        config = self.model.config
        return int(config.projection_dim if self.output == "embed" else config.hidden_size)

    @property
    def tokens(self) -> int:
        """Tokens of one picture, the class token among them."""
        if self.output == "embed":
            return 1
        return (self.side // int(self.model.config.patch_size)) ** 2 + 1

    @cached_property
    def colours(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and spread that the red, green and blue of a picture in 0..1 are standardised by."""
        path = self.folder / "preprocessor_config.json"
        usual = CLIP if self.is_clip else IMAGENET
        stated = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return stated.get("image_mean", usual[0]), stated.get("image_std", usual[1])

    @property
    def weights_sha256(self) -> str:
        """Hash of the weight file."""
        files = sorted([*self.folder.glob("*.safetensors"), *self.folder.glob("pytorch_model*.bin")])
        if not files:
            raise MissingWeights(f"encoder '{self.name}': no weights in {self.folder}")
        return sha256_of(files[0])

    @property
    def provider(self) -> str:
        """Device that the network runs on."""
        return str(self.model.device)

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Tokens float32 [n, tokens, dim] of RGB pictures of the model's size."""
        mean, spread = (torch.tensor(part).view(1, 3, 1, 1) for part in self.colours)
        pixels = torch.from_numpy(np.stack([np.asarray(p.convert("RGB")) for p in pictures]))
        values = (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / spread
        return self._run(values)

    def nothing(self) -> np.ndarray:
        """Tokens float32 [tokens, dim] of a picture that is zero after standardising its colours."""
        return self._run(torch.zeros(1, 3, self.side, self.side))[0]

    @torch.inference_mode()
    def _run(self, values: Tensor) -> np.ndarray:
        model, values = self.model, values.to(self.model.device)
        if self.output == "embed":
            found = model(values).image_embeds[:, None]
        elif self.output == "penultimate":
            found = model(values, output_hidden_states=True).hidden_states[-2]
        else:
            found = all_tokens(model, values)
        return found.float().cpu().numpy()


class ObjectTokens:
    """Tokens of a whole picture, as a rule that of a subject cut out of a photo.

    Args:
        name: in the registry.
        model: the network.
        licence: of the weights.
    """

    normalised = False
    comparable = False
    measure: Measure = "cosine"
    threshold = 1.0

    def __init__(self, name: str, model: TokenModel, *, licence: str):
        self.name, self.model, self.licence = name, model, licence

    @property
    def dim(self) -> int:
        return self.model.dim

    @property
    def tokens(self) -> int:
        return self.model.tokens

    @property
    def weights_sha256(self) -> str:
        return self.model.weights_sha256

    @property
    def preprocessing(self) -> str:
        return f"RGB, padded to a square with white, {self.model.side} px"

    @property
    def provider(self) -> str:
        return self.model.provider

    def nothing(self) -> np.ndarray:
        """float32 [tokens, dim] of a picture of zeros, which stands for none."""
        return self.model.nothing()

    def embed_image(self, image: Image.Image) -> np.ndarray:
        """float32 [tokens, dim] of an RGB picture."""
        side = max(image.size)
        square = image
        if image.size != (side, side):
            square = Image.new("RGB", (side, side), (255, 255, 255))
            square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        size = (self.model.side, self.model.side)
        return self.model([square.resize(size, Image.Resampling.BICUBIC)])[0]

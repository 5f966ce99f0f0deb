"""Train the W+ adapter on the embedded model, in the two published stages (arXiv:2311.17461).

Stage 1: faces after one prompt for all; the mapper and the residual cross-attention learn to draw the code.
Stage 2: captions; the mapper stays. Beside the denoising error, what lies outside of the face must not change
with the code, and the picture must stay near what the base draws without one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor

from idpersona.adapters.wplus.adapter import WPlus
from idpersona.adapters.wplus.branch import ResidualBranch
from idpersona.adapters.wplus.config import WPlusConfig
from idpersona.adapters.wplus.modules import WPlusCrossAttention, WPlusMapper
from idpersona.encoders.masks import head_mask
from idpersona.encoders.style import StyleEncoder
from idpersona.seams.cross import cross_scope
from idpersona.seams.latent import Told
from idpersona.training.data.framing import SIDE
from idpersona.training.keyed import StepKey
from idpersona.training.objectives.denoising import Denoised
from idpersona.training.objectives.frozen import frozen
from idpersona.training.objectives.injection import InjectionObjective, started_from
from idpersona.training.objectives.injection_data import InjectionBatch, InjectionConfig

STAGE_1_PROMPT = "a photo of a person"
_OTHER_CODES = 3


class WPlusTrainingConfig(InjectionConfig):
    """What is trained, beside :class:`InjectionConfig`'s fields.

    Attributes:
        style: folder of the encoder of the W+ space.
        stage: 1 or 2; stage 2 starts from stage 1 (``init_from``).
        tokens: how many tokens a code becomes.
        disentangle, preserve: weights of the two losses of stage 2; published: 0.6 and 0.4 as defaults of the
            script, 2.0 and 1.0 in its example.
        delay: share of the steps before the adapter acts, kept as the adapter's default.
    """

    kind: Literal["wplus"]
    style: str
    stage: Literal[1, 2]
    tokens: int = Field(4, ge=1)
    disentangle: float = Field(0.6, ge=0)
    preserve: float = Field(0.4, ge=0)
    delay: float = Field(0.0, ge=0, lt=1)


class WPlusObjective(InjectionObjective):
    """See the module's docstring."""

    folder = "wplus"

    def __init__(self, config: WPlusTrainingConfig, init_from: str | None):
        super().__init__(config)
        self.config: WPlusTrainingConfig = config
        self.style: Any = frozen(StyleEncoder, config.style, "W+ encoder", "mini-style")
        adapter = self._adapter(config, init_from)
        if config.stage == 2:
            adapter.mapper.requires_grad_(False)
        self.hold(adapter)
        self.mapper, self.cross_attention = adapter.mapper, adapter.cross_attention

    def _adapter(self, config: WPlusTrainingConfig, init_from: str | None) -> WPlus:
        rows, dim = self.style.config["rows"], self.style.config["dim"]
        groups = tuple(len(part) for part in np.array_split(np.arange(rows), config.tokens))
        sizes = WPlusConfig(
            encoder="mini-wplus",
            rows=rows,
            dim=dim,
            groups=groups,
            output_dim=self.unet.config["cross_attention_dim"],
            delay=config.delay,
        )
        if init_from:
            adapter = started_from(WPlus, init_from, sizes, self.model.pipe, free=("delay",))
            adapter.config = sizes
            return adapter
        mapper = WPlusMapper(dim, groups, sizes.output_dim)
        return WPlus(mapper, WPlusCrossAttention.from_unet(self.unet, copy_weights=True), sizes)

    @property
    def networks(self) -> Mapping[str, Mapping[str, Any]]:
        vae = str(Path(self.config.base) / "vae")
        return {"mini-wplus": {"folder": self.config.style, "vae": vae}}

    @torch.no_grad()
    def codes(self, batch: InjectionBatch) -> Tensor:
        """W+ codes of the references, [B, rows, dim]; zeros for nobody."""
        self.style.to(batch.references.device)
        codes = self.style(self.model.encode(batch.references)).float()
        return codes * batch.somebody.float()[:, None, None]

    def conditions(self, batch: InjectionBatch) -> Tensor:
        return self.mapper(self.codes(batch))

    def predict(self, noisy: Tensor, timesteps: Tensor, text: Told, people: Tensor) -> Tensor:
        branch = ResidualBranch(self.cross_attention, people, kernel=self.kernel)
        with cross_scope(self.unet, [branch]):
            return self.model.predict(noisy, timesteps, text)

    def captions(self, batch: InjectionBatch) -> Sequence[str]:
        if self.config.stage == 2:
            return batch.texts
        # Where the caption was dropped, so is the one prompt: guidance needs the code beside an empty text.
        return [STAGE_1_PROMPT if text else "" for text in batch.texts]

    def further(self, batch: InjectionBatch, step: Denoised, text: Told) -> Mapping[str, Tensor]:
        """Stage 2's two losses, weighted."""
        if self.config.stage == 1:
            return {}
        with torch.no_grad():
            noisy = step.noisy.contiguous(memory_format=torch.channels_last)
            others = self.mapper(self._other_codes(self.codes(batch), batch.key))
            changed = self.predict(noisy, batch.timesteps, text, others)
            plain = self.model.predict(noisy, batch.timesteps, text)
        # Autocast keeps the weights it has cast; those cast here would pass no gradient.
        torch.clear_autocast_cache()
        outside = 1 - self._faces(batch, step.noisy.shape[-1])
        entangled = (outside * (changed - step.prediction)).square().mean()
        return {
            "entangled": self.config.disentangle * entangled,
            "unpreserved": self.config.preserve * F.mse_loss(step.prediction, plain),
        }

    def _other_codes(self, codes: Tensor, key: StepKey) -> Tensor:
        """Codes of other faces: between and beyond those of the batch, and moved at random.

        The published amounts (up to 40 for StyleGAN's codes) are for a space of another spread; codes have
        unit spread here.
        """
        chance = torch.from_numpy(np.stack([key.rng(i, _OTHER_CODES).random(2) for i in key.indices]))
        kind, amount = chance.float().to(codes.device)[:, :, None, None].unbind(1)
        beyond = codes.roll(1, 0).lerp(codes, 3 * amount - 1.5)
        moved = codes + amount * key.normal(tuple(codes.shape[1:]), _OTHER_CODES + 1).to(codes.device)
        return torch.where(kind < 0.6, beyond, moved)

    def _faces(self, batch: InjectionBatch, side: int) -> Tensor:
        """1 where a face is, float32 [B, 1, side, side]."""
        masks = [head_mask((SIDE, SIDE), points) for points in batch.points.cpu().numpy()]
        return F.adaptive_avg_pool2d(
            torch.from_numpy(np.stack(masks))[:, None].to(batch.pictures.device), side
        )

    def export(self, folder: Path) -> None:
        super().export(folder)
        self.style.save_pretrained(folder / "encoder")

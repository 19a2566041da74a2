"""The DCGAN: one discriminator step and g_steps generator steps per batch, all with the same z.

Radford 2016 in the schedule of Kim's and Amos's TensorFlow code (dcgan_inpaint/README.md).
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from dcgan_inpaint.data.changes import changed
from dcgan_inpaint.errors import Fraction, NonNegative, Positive, Seed, make, settings
from dcgan_inpaint.losses import R1_EVERY, gradient_penalty
from dcgan_inpaint.models.base import LatentGAN, ModelSettings, Width
from dcgan_inpaint.models.networks import Discriminator, Generator, Layers


@settings
class DCGANSettings(ModelSettings):
    z_dim: Width = 100
    gf_dim: Width = 64
    df_dim: Width = 64
    widths: Literal["blog", "amos_head"] = "blog"  # of G's maps: networks.generator_widths
    prior: Literal["uniform", "normal"] = "uniform"
    g_steps: Annotated[int, Field(ge=1, le=100)] = 2
    layers: Layers = 4  # of D
    augment: Fraction = 0.0  # share of what D sees, see data/changes.py
    r1: NonNegative = 0.0
    lr: Positive = 2e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    seed: Seed = 0


class DCGAN(LatentGAN):
    """Generator, Discriminator and the generator's moving average (EMA).

    Pictures are (B, channels, image_size, image_size) in [-1, 1]; z is (B, z_dim) from `prior`:
    "uniform" U[-1, 1] or "normal" N(0, 1).  With `augment` D sees that share of all pictures, true
    and made, turned, shifted and lit otherwise (Zhao 2020); `r1` weighs a gradient penalty on D
    (Mescheder 2018).  Takes DCGANSettings by name; raises ValueError when they do not fit, or not
    together.
    """

    kind = "DCGAN"
    Settings = DCGANSettings
    settings: DCGANSettings
    generator: Generator
    ema_generator: Generator

    def __init__(self, **settings: Any):
        s = make(DCGANSettings, settings)
        super().__init__(
            s,
            Generator(s.image_size, s.channels, s.z_dim, s.gf_dim, s.widths),
            Discriminator(s.image_size, s.channels, s.df_dim, s.layers),
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]  # (B, C, S, S)
        z = self.latents(self.rows(len(images)))  # (B, z_dim): the same for all steps

        # The graph of this G(z) serves the D step and the first G step.  The original computes it
        # for each, and so lets its moving statistics follow the same batch twice: 0.9².
        self.generator.set_decay(0.9**2)
        fake = self.generator(z)  # (B, C, S, S)
        self.generator.set_decay(0.9)
        real, made = self._shown("real", images), self._shown("made", fake.detach())
        log = self._discriminator_step(real, made, self._penalty(real))
        for k in range(self.settings.g_steps):
            log["train/g_loss"] = self._generator_step(fake if k == 0 else self.generator(z), k)
        self.update_average(self.ema_generator, self.generator)
        if self.logs_now:
            self.log_step(log)

    def _shown(self, which: str, images: Tensor) -> Tensor:
        """What D sees of (B, C, S, S); G learns through it."""
        if not self.settings.augment:
            return images
        rows, seed = self.rows(len(images)), self.settings.seed
        return changed(images, rows, seed, self.settings.augment, which)

    def _penalty(self, real: Tensor) -> Tensor | None:
        if not self.settings.r1 or self.iteration % R1_EVERY:
            return None
        with torch.autocast(self.device.type, enabled=False):  # second derivatives in float32
            return R1_EVERY * self.settings.r1 * gradient_penalty(self.discriminator, real)

    def _generator_step(self, fake: Tensor, k: int) -> Tensor:
        loss = self._adversarial_loss(self._shown(f"made {k}", fake))
        self._update(1, loss, count=self.iteration * self.settings.g_steps + k + 1)
        return loss.detach()

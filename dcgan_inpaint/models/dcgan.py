"""The DCGAN: one discriminator step and g_steps generator steps per batch, all with the same z.

Radford 2016 in the schedule of Kim's and Amos's TensorFlow code (dcgan_inpaint/README.md).
"""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from dcgan_inpaint.configs import NonNegative, Positive, Seed, make, settings
from dcgan_inpaint.losses import lazy_penalty
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
    r1: NonNegative = 0.0
    lr: Positive = 2e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    seed: Seed = 0


class DCGAN(LatentGAN):
    """Generator, Discriminator and the generator's moving average (EMA).

    Images are (B, channels, image_size, image_size) in [-1, 1]; z is (B, z_dim) from `prior`:
    "uniform" U[-1, 1] or "normal" N(0, 1).  `r1` weighs a penalty on D's gradient at true images
    (Mescheder 2018), which keeps D from winning.  Takes DCGANSettings by name; raises ValueError
    when they do not fit, or not together.
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
        penalty = lazy_penalty(self.discriminator, images, self.settings.r1, self.iteration)
        log = self._discriminator_step(images, fake.detach(), penalty)
        for k in range(self.settings.g_steps):
            log["train/g_loss"] = self._generator_step(fake if k == 0 else self.generator(z), k)
        self.update_average(self.ema_generator, self.generator)
        if self.logs_now:
            self.log_step(log)

    def _generator_step(self, fake: Tensor, k: int) -> Tensor:
        loss = self._adversarial_loss(fake)
        self._update(1, loss, count=self.iteration * self.settings.g_steps + k + 1)
        return loss.detach()

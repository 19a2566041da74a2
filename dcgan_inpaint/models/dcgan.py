"""DCGAN (Radford 2016), trained on the schedule of Kim's and Amos's TensorFlow implementation.

Each batch is one discriminator step and g_steps generator steps, all with the same z.
"""

import functools
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from dcgan_inpaint.configs import NonNegative, Positive, Seed, make, settings
from dcgan_inpaint.losses import lazy_penalty
from dcgan_inpaint.models.base import LatentGAN, ModelSettings, Width
from dcgan_inpaint.models.networks import Discriminator, Generator, Layers


@settings
class DCGANSettings(ModelSettings):
    """Settings of a DCGAN; see conf/model/dcgan.yaml.

    z_dim: size of z.  gf_dim, widths: channels of G (networks.generator_widths).  df_dim, layers:
    channels and stride-2 layers of D.  prior: U[-1, 1] or N(0, 1).  g_steps: updates of G per
    batch.  r1: weight of the gradient penalty on D.  lr, beta1: settings of Adam.  seed: seed of z.
    """

    z_dim: Width = 100
    gf_dim: Width = 64
    df_dim: Width = 64
    widths: Literal["blog", "amos_head"] = "blog"
    prior: Literal["uniform", "normal"] = "uniform"
    g_steps: Annotated[int, Field(ge=1, le=100)] = 2
    layers: Layers = 4
    r1: NonNegative = 0.0
    lr: Positive = 2e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5
    seed: Seed = 0


class DCGAN(LatentGAN):
    """Generator, discriminator and the generator's moving average (EMA).

    Images are (B, channels, image_size, image_size) in [-1, 1]; z is (B, z_dim).  `r1` weighs a
    penalty on D's gradient at real images (Mescheder 2018), which keeps D from overpowering G.
    Takes the fields of DCGANSettings by name; raises ValueError for invalid settings.
    """

    kind = "DCGAN"
    Settings = DCGANSettings
    architecture = ("z_dim", "gf_dim", "df_dim", "widths", "prior", "layers")
    settings: DCGANSettings

    def __init__(self, **settings: Any):
        s = make(DCGANSettings, settings)
        super().__init__(
            s,
            Generator(s.image_size, s.channels, s.z_dim, s.gf_dim, s.widths),
            Discriminator(s.image_size, s.channels, s.df_dim, s.layers),
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images, g_steps = batch["image"], self.settings.g_steps  # (B, C, S, S)
        z = self.latents(self.sample_indices(len(images)))  # (B, z_dim): the same for all steps
        parts = self.parts(images, z)

        # One graph of G(z) serves the D step and the first G step.  The original computes G(z)
        # twice, so its moving statistics decay twice for the same batch: 0.9².  Several parts are
        # computed twice, so that the graph of one is in memory at a time.
        single = len(parts) == 1
        generate = functools.cache(self.generator) if single else self.generator

        def d_loss(images: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            penalty = lazy_penalty(self.discriminator, images, self.settings.r1, self.iteration)
            return self.discriminator_loss(images, generate(z).detach(), penalty)

        def g_loss(generator: Any, _: Tensor, z: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            loss = self.adversarial_loss(generator(z))
            return loss, {"g_loss": loss}

        self.generator.set_decay(0.9**2 if single else 0.9)
        log = self._update(0, d_loss, parts, self.iteration + 1)
        self.generator.set_decay(0.9)
        for k in range(g_steps):
            loss_of = functools.partial(g_loss, generate if k == 0 else self.generator)
            log |= self._update(1, loss_of, parts, self.iteration * g_steps + k + 1)
        self.update_average(self.ema_generator, self.generator)
        self.log_step(log, bar=("d_loss", "g_loss"))

"""DCGAN (Radford 2016), trained on the schedule of Kim's and Amos's TensorFlow implementation.

Each batch is one discriminator step and g_steps generator steps, all with the same z.
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
    settings: DCGANSettings

    def __init__(self, **settings: Any):
        s = make(DCGANSettings, settings)
        super().__init__(
            s,
            Generator(s.image_size, s.channels, s.z_dim, s.gf_dim, s.widths),
            Discriminator(s.image_size, s.channels, s.df_dim, s.layers),
        )

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]  # (B, C, S, S)
        z = self.latents(self.sample_indices(len(images)))  # (B, z_dim): the same for all steps

        # One graph of G(z) serves the D step and the first G step.  The original computes G(z)
        # twice, so its moving statistics decay twice for the same batch: 0.9².
        self.generator.set_decay(0.9**2)
        fake = self.generator(z)  # (B, C, S, S)
        self.generator.set_decay(0.9)
        penalty = lazy_penalty(self.discriminator, images, self.settings.r1, self.iteration)
        log = self._discriminator_step(images, fake.detach(), penalty)
        for k in range(self.settings.g_steps):
            log["g_loss"] = self.adversarial_loss(fake if k == 0 else self.generator(z))
            self._update(1, log["g_loss"], self.iteration * self.settings.g_steps + k + 1)
        self.update_average(self.ema_generator, self.generator)
        self.log_step(log, bar=("d_loss", "g_loss"))

"""The DCGAN: one discriminator step and g_steps generator steps per batch, all with the same z.

Radford 2016 in the schedule of Kim's and Amos's TensorFlow code (method: README, "The method").
"""

from torch import Tensor

from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.models.networks import Discriminator, Generator


class DCGAN(LatentGAN):
    """Generator, Discriminator and the generator's moving average (EMA).

    Pictures are (B, channels, image_size, image_size) in [-1, 1]; z is (B, z_dim) from `prior`:
    "uniform" U[-1, 1] or "normal" N(0, 1).  `crop` records how the training pictures were framed
    (side of the central square / short side), so that completion frames others alike.
    Raises ValueError when the sizes do not fit (see networks.py).
    """

    kind = "DCGAN"
    generator: Generator
    ema_generator: Generator

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        crop: float = 1.0,
        z_dim: int = 100,
        gf_dim: int = 64,
        df_dim: int = 64,
        widths: str = "blog",
        prior: str = "uniform",
        g_steps: int = 2,
        lr: float = 2e-4,
        beta1: float = 0.5,
        ema_decay: float = 0.999,
        seed: int = 0,
    ):
        if g_steps < 1:
            raise ValueError(f"g_steps={g_steps}: use 1 or more")
        self.check_latents(z_dim, prior)
        super().__init__(
            Generator(image_size, channels, z_dim, gf_dim, widths),
            Discriminator(image_size, channels, df_dim),
            ema_decay,
        )
        self.save_hyperparameters()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]  # (B, C, S, S)
        z = self.latents(self.rows(len(images)))  # (B, z_dim): the same for all steps

        # The graph of this G(z) serves the D step and the first G step.  The original computes it
        # for each, and so lets its moving statistics follow the same batch twice: 0.9².
        self.generator.set_decay(0.9**2)
        fake = self.generator(z)  # (B, C, S, S)
        self.generator.set_decay(0.9)
        log = self._discriminator_step(images, fake.detach())
        for k in range(self.hparams["g_steps"]):
            log["train/g_loss"] = self._generator_step(fake if k == 0 else self.generator(z), k)
        self.update_average(self.ema_generator, self.generator)
        if self.logs_now:
            self.log_dict(log | {"iteration": float(self.iteration)})

    def _generator_step(self, fake: Tensor, k: int) -> Tensor:
        loss = self._adversarial_loss(fake)
        self._update(1, loss, count=self.iteration * self.hparams["g_steps"] + k + 1)
        return loss.detach()

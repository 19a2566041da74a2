"""The context encoder (Pathak et al., CVPR 2016): one network from the known pixels to the hole.

What Yeh 2017 compares with.  It learns with the masks that it will meet, and does not search.
"""

from collections.abc import Callable

from torch import Tensor

from dcgan_inpaint.losses import hole_loss
from dcgan_inpaint.models.base import AdversarialModule
from dcgan_inpaint.models.networks import ContextGenerator, Discriminator
from dcgan_inpaint.pictures import masked


class ContextEncoder(AdversarialModule):
    """Encoder and decoder, their moving average (EMA), and a discriminator for training.

    Pictures are (B, channels, image_size, image_size) in [-1, 1].  loss = l2_weight · hole_loss +
    (1 - l2_weight) · CE(D(fake), 1) (Pathak, eq. 1 to 3); the network's lr is ten times D's, as in
    their code.  Per batch one D update, then one of the network.  As in eq. 2 D sees the network's
    whole picture: with the known pixels put back it would learn to find the seam.

    `mask(index, size)` draws the masks of training (masks.py): picture and iteration decide.  It is
    not kept in the checkpoint, for completion takes any mask.  `crop` as in DCGAN.  Raises
    ValueError when the sizes do not fit (see networks.py) or l2_weight is not in [0, 1].
    """

    kind = "context encoder"
    generator: ContextGenerator
    ema_generator: ContextGenerator

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        crop: float = 1.0,
        code_dim: int = 512,
        gf_dim: int = 64,
        df_dim: int = 64,
        l2_weight: float = 0.999,
        lr: float = 2e-3,
        d_lr: float = 2e-4,
        beta1: float = 0.5,
        ema_decay: float = 0.999,
        mask: Callable[[Tensor, int], Tensor] | None = None,
    ):
        if not 0 <= l2_weight <= 1:
            raise ValueError(f"l2_weight={l2_weight}: use a number from 0 to 1")
        super().__init__(
            ContextGenerator(image_size, channels, code_dim, gf_dim, df_dim),
            Discriminator(image_size, channels, df_dim),
            ema_decay,
        )
        self.save_hyperparameters(ignore=["mask"])
        self.mask = mask

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if self.mask is None:
            raise ValueError("mask=None: a context encoder needs masks to train with (masks.py)")
        images = batch["image"]  # (B, C, S, S)
        mask = self.mask(self.rows(len(images)), images.shape[-1])  # (B, 1, S, S)

        fake = self.generator(masked(images, mask), mask)  # (B, C, S, S): for both updates
        log = self._discriminator_step(images, fake.detach())
        log |= self._generator_step(images, mask, fake)
        self.update_average(self.ema_generator, self.generator)
        if self.logs_now:
            self.log_dict(log | {"iteration": float(self.iteration)})

    def _generator_step(self, images: Tensor, mask: Tensor, fake: Tensor) -> dict[str, Tensor]:
        l2 = hole_loss(fake.float(), images, mask).mean()
        adversarial = self._adversarial_loss(fake)
        weight = self.hparams["l2_weight"]
        loss = weight * l2 + (1 - weight) * adversarial
        self._update(1, loss, count=self.iteration + 1)
        return {"train/l2": l2.detach(), "train/g_loss": adversarial.detach()}

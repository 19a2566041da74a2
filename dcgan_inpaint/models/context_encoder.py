"""The context encoder (Pathak et al., CVPR 2016): one network from the known pixels to the hole.

What Yeh 2017 compares with.  It learns with the masks that it will meet, and does not search.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from dcgan_inpaint.configs import Fraction, Positive, make, settings
from dcgan_inpaint.images import masked
from dcgan_inpaint.losses import hole_loss
from dcgan_inpaint.models.base import AdversarialModule, ModelSettings, Width
from dcgan_inpaint.models.networks import Discriminator, Encoder, Generator, frozen


@settings
class ContextEncoderSettings(ModelSettings):
    code_dim: Width = 512
    gf_dim: Width = 64
    df_dim: Width = 64
    l2_weight: Fraction = 0.999
    lr: Positive = 2e-3
    d_lr: Positive = 2e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5


class ContextGenerator(nn.Module):
    """The generator of a context encoder: an Encoder, and a Generator that decodes.

    known (B, channels, S, S) in [-1, 1], 0 in the hole, and mask (B, 1, S, S), 1 = known ->
    images (B, channels, S, S) in [-1, 1].
    """

    def __init__(self, image_size: int, channels: int, code_dim: int, gf_dim: int, df_dim: int):
        super().__init__()
        self.encoder = Encoder(image_size, channels, code_dim, df_dim)
        self.decoder = Generator(image_size, channels, code_dim, gf_dim)

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(self.encoder(known, mask))  # (B, C, S, S)

    def fold(self) -> None:
        self.encoder.fold()
        self.decoder.fold()


class ContextEncoder(AdversarialModule):
    """Encoder and decoder, their moving average (EMA), and a discriminator for training.

    Images are (B, channels, image_size, image_size) in [-1, 1].  loss = l2_weight · hole_loss +
    (1 - l2_weight) · CE(D(fake), 1) (Pathak, eq. 1 to 3); the network's lr is ten times D's, as in
    their code.  Per batch one D update, then one of the network.  As in eq. 2 D sees the network's
    whole image: with the known pixels put back it would learn to find the seam.

    `mask(index, size)` draws the masks of training (masks.py): image and iteration decide.  It is
    not kept in the checkpoint, for completion takes any mask.  Takes ContextEncoderSettings by
    name; raises ValueError when they do not fit, or not together.
    """

    kind = "context encoder"
    Settings = ContextEncoderSettings
    training_only = ("discriminator",)
    settings: ContextEncoderSettings
    generator: ContextGenerator
    ema_generator: ContextGenerator
    gan = None  # it does not search

    def __init__(self, mask: Callable[[Tensor, int], Tensor] | None = None, **settings: Any):
        s = make(ContextEncoderSettings, settings)
        super().__init__(
            s,
            ContextGenerator(s.image_size, s.channels, s.code_dim, s.gf_dim, s.df_dim),
            Discriminator(s.image_size, s.channels, s.df_dim),
        )
        self.mask = mask

    def fill(self, ema: bool = True) -> nn.Module:
        return frozen(self.ema_generator if ema else self.generator)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]  # (B, C, S, S)
        mask = self.training_masks(self.rows(len(images)))  # (B, 1, S, S)

        fake = self.generator(masked(images, mask), mask)  # (B, C, S, S): for both updates
        log = self._discriminator_step(images, fake.detach())
        log |= self._generator_step(images, mask, fake)
        self.update_average(self.ema_generator, self.generator)
        if self.logs_now:
            self.log_step(log)

    def _generator_step(self, images: Tensor, mask: Tensor, fake: Tensor) -> dict[str, Tensor]:
        l2 = hole_loss(fake.float(), images, mask).mean()
        adversarial = self._adversarial_loss(fake)
        weight = self.settings.l2_weight
        loss = weight * l2 + (1 - weight) * adversarial
        self._update(1, loss, count=self.iteration + 1)
        return {"train/l2": l2.detach(), "train/g_loss": adversarial.detach()}

"""Context encoder (Pathak et al., CVPR 2016): a network from the known pixels to the hole.

It is the baseline of Yeh 2017.  It is trained on the masks that it will complete and needs no
search.
"""

from typing import Annotated, Any

from pydantic import Field
from torch import Tensor, nn

from dcgan_inpaint.configs import Fraction, Positive, make, settings
from dcgan_inpaint.losses import hole_loss
from dcgan_inpaint.models.base import AdversarialModule, MaskFunction, ModelSettings, Width
from dcgan_inpaint.models.networks import Discriminator, Encoder, Generator, freeze


@settings
class ContextEncoderSettings(ModelSettings):
    """Settings of a ContextEncoder; see conf/model/context_encoder.yaml.

    code_dim: width between encoder and decoder.  gf_dim: channels of the decoder.  df_dim: channels
    of encoder and discriminator.  l2_weight: weight of the L2 loss; the rest is adversarial.  lr,
    d_lr, beta1: settings of Adam for the network and D.
    """

    code_dim: Width = 512
    gf_dim: Width = 64
    df_dim: Width = 64
    l2_weight: Fraction = 0.999
    lr: Positive = 2e-3
    d_lr: Positive = 2e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5


class ContextGenerator(nn.Module):
    """The network of a context encoder: an Encoder, and a Generator as decoder.

    known (B, channels, S, S) in [-1, 1], 0 in the hole, and mask (B, 1, S, S), 1 = known ->
    images (B, channels, S, S) in [-1, 1].
    """

    def __init__(self, image_size: int, channels: int, code_dim: int, gf_dim: int, df_dim: int):
        super().__init__()
        self.encoder = Encoder(image_size, channels, code_dim, df_dim)
        self.decoder = Generator(image_size, channels, code_dim, gf_dim)

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        return self.decoder(self.encoder(known, mask))  # (B, C, S, S)


class ContextEncoder(AdversarialModule):
    """Encoder and decoder, their moving average (EMA), and a discriminator for training.

    loss = l2_weight · hole_loss + (1 - l2_weight) · CE(D(fake), 1) (Pathak 2016, eq. 1 to 3).  The
    network's lr is ten times that of D, as in their implementation.  Each batch is one update of D
    and one of the network.  As in eq. 2 D sees the network's whole image: with the known pixels
    pasted it would learn to detect the seam.

    Args:
        mask: Masks for training (masks.py).  It is not stored in the
            checkpoint, because any mask can be completed.
        settings: Fields of ContextEncoderSettings.

    Raises:
        ValueError: If the settings are invalid.
    """

    kind = "context encoder"
    Settings = ContextEncoderSettings
    training_only = ("discriminator",)
    settings: ContextEncoderSettings
    gan = None  # there is no z to search

    def __init__(self, mask: MaskFunction | None = None, **settings: Any):
        s = make(ContextEncoderSettings, settings)
        super().__init__(
            s,
            ContextGenerator(s.image_size, s.channels, s.code_dim, s.gf_dim, s.df_dim),
            Discriminator(s.image_size, s.channels, s.df_dim),
        )
        self.mask = mask

    def fill(self, ema: bool = True) -> nn.Module:
        return freeze(self.ema_generator if ema else self.generator)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]  # (B, C, S, S)
        mask = self.training_masks(self.sample_indices(len(images)))  # (B, 1, S, S)

        fake = self.generator(images * mask, mask)  # (B, C, S, S): for both updates
        log = self._discriminator_step(images, fake.detach())
        l2 = hole_loss(fake.float(), images, mask).mean()
        adversarial = self.adversarial_loss(fake)
        weight = self.settings.l2_weight
        loss = weight * l2 + (1 - weight) * adversarial
        self._update(1, loss, count=self.iteration + 1)
        self.update_average(self.ema_generator, self.generator)
        self.log_step(log | {"l2": l2, "g_loss": adversarial}, bar=("d_loss", "g_loss"))

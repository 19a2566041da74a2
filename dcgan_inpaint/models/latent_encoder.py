"""A learned start for the search: a network from the known pixels to z (after Lahiri 2020), and on
to G's first feature map (as encoders for larger GANs go beyond one z: Richardson 2021)."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dcgan_inpaint.losses import context_loss, prior_loss
from dcgan_inpaint.models.base import LatentGAN, Model, check_decay
from dcgan_inpaint.models.dcgan import DCGAN
from dcgan_inpaint.models.networks import LatentNetwork, frozen
from dcgan_inpaint.pictures import masked

GANS: dict[str, type[LatentGAN]] = {DCGAN.kind: DCGAN}  # whose z a search can move, by kind


class LatentEncoder(Model):
    """E(known pixels, mask) -> z of a frozen GAN and an offset of its G's 4x4 map, with the moving
    average (EMA) of E.

    It learns through the GAN's averaged G and its D, on training pictures with the holes that
    `mask(index, size)` draws.  Per picture y of n numbers, with the mask M and x = G(z, offset):

        loss = (whole · sum |x - y| + context · sum M |x - y|) / n + lam · CE(D(x), 1)

    The hole counts by `whole` alone, which no search can know.  The checkpoint holds the GAN as
    well, since z means nothing without it; `gan_kind` and `gan_settings` rebuild it there.  `mask`
    is for training only.  Raises ValueError when the sizes do not fit, or for a weight below 0.
    """

    kind = "latent encoder"
    ema_encoder: LatentNetwork

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        crop: float = 1.0,
        code_dim: int = 512,
        df_dim: int = 64,
        whole: float = 1.0,
        context: float = 1.0,
        lam: float = 0.001,
        lr: float = 1e-3,
        ema_decay: float = 0.999,
        gan: LatentGAN | None = None,
        gan_kind: str = "",
        gan_settings: Mapping[str, Any] | None = None,
        mask: Callable[[Tensor, int], Tensor] | None = None,
    ):
        super().__init__()
        check_decay(ema_decay)
        for name, value in (("whole", whole), ("context", context), ("lam", lam)):
            if value < 0:
                raise ValueError(f"{name}={value}: use 0 or more")
        self.save_hyperparameters(ignore=["gan", "mask"])
        if gan is None and gan_kind not in GANS:
            raise ValueError("a latent encoder needs gan= to learn from")
        if gan is None:
            gan = GANS[gan_kind](**gan_settings or {})
        if gan.picture_shape != (channels, image_size, image_size):
            raise ValueError(
                f"the GAN makes pictures {gan.picture_shape}, data has "
                f"{(channels, image_size, image_size)}: use data.image_size="
                f"{gan.picture_shape[1]} data.channels={gan.picture_shape[0]}"
            )
        self.hparams.update(gan_kind=gan.kind, gan_settings=dict(gan.hparams))
        self.gan = gan.eval().requires_grad_(False)
        z_dim, prior = gan.hparams["z_dim"], gan.hparams["prior"]
        map_dim = gan.ema_generator.project.out_features
        self.encoder = LatentNetwork(image_size, channels, code_dim, df_dim, z_dim, map_dim, prior)
        self.ema_encoder = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.mask = mask

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.encoder.parameters(), self.hparams["lr"], fused=True)

    def on_fit_start(self) -> None:
        """Freeze G and D into their fast form, which is neither trained nor saved."""
        if self.mask is None:
            raise ValueError("a latent encoder needs mask= to train with")
        self.teachers = frozen(self.gan.ema_generator), frozen(self.gan.discriminator)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images = batch["image"]  # (B, C, S, S)
        mask = self.mask(self.rows(len(images)), images.shape[-1])  # type: ignore[misc]
        z, offset = self.encoder(masked(images, mask), mask)  # (B, z_dim), (B, 4·4·8·gf)
        generator, discriminator = self.teachers
        fake = generator(z, offset=offset)  # (B, C, S, S)
        logits = discriminator(fake)  # (B,)
        fake, size = fake.float(), images[0].numel()
        whole = context_loss(fake, images, torch.ones_like(mask)).mean() / size
        context = context_loss(fake, images, mask).mean() / size
        prior = prior_loss(logits.float()).mean()
        weights = self.hparams
        loss = weights["whole"] * whole + weights["context"] * context + weights["lam"] * prior
        parts = {"whole": whole, "context": context, "prior": prior, "loss": loss}
        self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()})
        self.log("iteration", float(self.iteration + 1))
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        self.update_average(self.ema_encoder, self.encoder)

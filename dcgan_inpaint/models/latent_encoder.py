"""A learned start for the search: a network from the known pixels to z (after Lahiri 2020), and on
to G's first feature map (as encoders for larger GANs go beyond one z: Richardson 2021)."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from dcgan_inpaint.errors import NonNegative, Positive, make, settings
from dcgan_inpaint.losses import context_loss, prior_loss
from dcgan_inpaint.models.base import LatentGAN, Model, ModelSettings, Width
from dcgan_inpaint.models.networks import Encoder, frozen
from dcgan_inpaint.pictures import masked


@settings
class LatentEncoderSettings(ModelSettings):
    code_dim: Width = 512
    df_dim: Width = 64
    whole: NonNegative = 1.0
    context: NonNegative = 1.0
    lam: NonNegative = 0.001
    lr: Positive = 1e-3


class LatentNetwork(nn.Module):
    """An Encoder and two linear layers: known pixels and mask, as ContextGenerator's, -> z (B,
    z_dim), and the offset (B, map_dim) of G's 4x4 map from that of z: what no z can say.

    z is in [-1, 1] for the uniform prior, and free for the normal one.
    """

    def __init__(
        self,
        image_size: int,
        channels: int,
        code_dim: int,
        df_dim: int,
        z_dim: int,
        map_dim: int,
        prior: str,
    ):
        super().__init__()
        self.encoder = Encoder(image_size, channels, code_dim, df_dim)
        self.head = nn.Linear(code_dim, z_dim)
        self.bound: nn.Module = nn.Tanh() if prior == "uniform" else nn.Identity()
        self.offset = nn.Linear(code_dim, map_dim)
        nn.init.zeros_(self.offset.weight)  # it begins with pictures that G makes of z
        nn.init.zeros_(self.offset.bias)

    def forward(self, known: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        code = self.encoder(known, mask)  # (B, code_dim)
        return self.bound(self.head(code)), self.offset(code)  # (B, z_dim), (B, map_dim)

    def fold(self) -> None:
        self.encoder.fold()


class LatentEncoder(Model):
    """E(known pixels, mask) -> z of a frozen GAN and an offset of its G's 4x4 map, with the moving
    average (EMA) of E.

    It learns through the GAN's averaged G and its D, on training pictures with the holes that
    `mask(index, size)` draws.  Per picture y of n numbers, with the mask M and x = G(z, offset):

        loss = (whole · sum |x - y| + context · sum M |x - y|) / n + lam · CE(D(x), 1)

    The hole counts by `whole` alone, which no search can know.  The checkpoint holds the GAN as
    well, since z means nothing without it; gan_kind and gan_settings of its hyperparameters rebuild
    it there.  `mask` is for training only.  Takes LatentEncoderSettings by name; raises ValueError
    when they do not fit, or not the GAN.
    """

    kind = "latent encoder"
    Settings = LatentEncoderSettings
    settings: LatentEncoderSettings
    gan: LatentGAN
    ema_encoder: LatentNetwork

    def __init__(
        self,
        gan: LatentGAN,
        mask: Callable[[Tensor, int], Tensor] | None = None,
        **settings: Any,
    ):
        s, g = make(LatentEncoderSettings, settings), gan.settings
        if gan.picture_shape != (s.channels, s.image_size, s.image_size):
            raise ValueError(
                f"the GAN makes pictures {gan.picture_shape}, data has "
                f"{(s.channels, s.image_size, s.image_size)}: use data.image_size={g.image_size} "
                f"data.channels={g.channels}"
            )
        super().__init__(s, gan_kind=gan.kind, gan_settings=dict(gan.hparams))
        self.gan = gan.eval().requires_grad_(False)
        map_dim = gan.ema_generator.project.out_features
        self.encoder = LatentNetwork(
            s.image_size, s.channels, s.code_dim, s.df_dim, g.z_dim, map_dim, g.prior
        )
        self.ema_encoder = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.mask = mask

    @classmethod
    def rebuild(cls, hyperparameters: Mapping[str, Any]) -> Self:
        own = dict(hyperparameters)
        kind, sizes = own.pop("gan_kind", None), own.pop("gan_settings", None)
        if not isinstance(kind, str) or kind not in LatentGAN.kinds:
            raise ValueError(f"gan_kind={kind}: choose one of {', '.join(LatentGAN.kinds)}")
        if not isinstance(sizes, Mapping):
            raise ValueError("gan_settings: no settings of a GAN")
        gan = LatentGAN.kinds[kind].rebuild(sizes)
        return cls(cast(LatentGAN, gan), **asdict(make(LatentEncoderSettings, own)))

    def latent_encoder(self) -> nn.Module:
        return frozen(self.ema_encoder)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.encoder.parameters(), self.settings.lr, fused=True)

    def on_fit_start(self) -> None:
        """Freeze G and D into their fast form, which is neither trained nor saved."""
        self.teachers = frozen(self.gan.ema_generator), frozen(self.gan.discriminator)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images = batch["image"]  # (B, C, S, S)
        mask = self.training_masks(self.rows(len(images)))  # (B, 1, S, S)
        z, offset = self.encoder(masked(images, mask), mask)  # (B, z_dim), (B, 4·4·8·gf)
        generator, discriminator = self.teachers
        fake = generator(z, offset=offset)  # (B, C, S, S)
        logits = discriminator(fake)  # (B,)
        fake, size = fake.float(), images[0].numel()
        whole = context_loss(fake, images, torch.ones_like(mask)).mean() / size
        context = context_loss(fake, images, mask).mean() / size
        prior = prior_loss(logits.float()).mean()
        weights = self.settings
        loss = weights.whole * whole + weights.context * context + weights.lam * prior
        parts = {"whole": whole, "context": context, "prior": prior, "loss": loss}
        self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()})
        self.log("iteration", float(self.iteration + 1))
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        self.update_average(self.ema_encoder, self.encoder)

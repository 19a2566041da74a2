"""Latent encoder: a network that predicts z from the known pixels, as the start of a search.

A learned start is from Lahiri et al. (CVPR 2020).  The offset of G's first feature map reaches
images that no z generates, as encoders for larger GANs do (Richardson et al., CVPR 2021).
"""

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint import losses
from dcgan_inpaint.configs import Fraction, NonNegative, Positive, Seed, make, settings
from dcgan_inpaint.data.augmentation import augment
from dcgan_inpaint.masks.masks import MaskFunction
from dcgan_inpaint.models.base import LatentGAN, Model, ModelSettings, Width, gan_of
from dcgan_inpaint.models.networks import Discriminator, Encoder, Encoding, Layers, freeze
from dcgan_inpaint.models.uncertainty import HOLE_DEPTHS


@settings
class LatentEncoderSettings(ModelSettings):
    """Settings of a LatentEncoder; see conf/model/latent_encoder.yaml.

    code_dim: width between the convolutions and z.  df_dim, layers: trunk of the encoder.  whole,
    context, lam: weights of the loss terms.  changed: share of training images that are augmented.
    noise_dim, r1: for files of encoders that sample; they are no longer trained.
    """

    code_dim: Width = 512
    df_dim: Width = 32
    layers: Layers = 4
    whole: NonNegative = 1.0
    context: NonNegative = 1.0
    lam: NonNegative = 0.001
    noise_dim: Annotated[int, Field(ge=0, le=4096)] = 0
    r1: NonNegative = 1.0
    changed: Fraction = 0.0
    lr: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    seed: Seed = 0


class LatentNetwork(nn.Module):
    """Encoder with two linear heads: z, and an offset of the 4x4 map that G computes from z.

    z is in [-1, 1] for a uniform prior and unbounded for a normal one.  With a noise_dim, noise w
    turns one code c into several: c + leaky_relu(W (c (1 + a(w)) + b(w))).
    """

    first_without_noise = False  # an encoder that samples was trained with noise

    def __init__(self, s: LatentEncoderSettings, z_dim: int, map_dim: int, prior: str):
        super().__init__()
        self.noise_dim = s.noise_dim
        self.encoder = Encoder(s.image_size, s.channels, s.code_dim, s.df_dim, s.layers)
        self.head = nn.Linear(s.code_dim, z_dim)
        self.bound: nn.Module = nn.Tanh() if prior == "uniform" else nn.Identity()
        self.offset = nn.Linear(s.code_dim, map_dim)
        nn.init.zeros_(self.offset.weight)  # training starts with images that G generates from z
        nn.init.zeros_(self.offset.bias)
        if s.noise_dim:
            self.scale = nn.Linear(s.noise_dim, s.code_dim)
            self.shift = nn.Linear(s.noise_dim, s.code_dim)
            self.mix = nn.Linear(s.code_dim, s.code_dim)

    def encode(self, known: Tensor, mask: Tensor, noise: Tensor | None = None) -> Encoding:
        """Predict z and offset.

        Args:
            known: Masked images (B, C, S, S) in [-1, 1], 0 in the hole.
            mask: (B, 1, S, S), 1 = known.
            noise: (B·K, noise_dim) for K samples of each image, or None.

        Returns:
            z (B·K, z_dim) and offset (B·K, map_dim), the samples of an image in adjacent rows.
        """
        code = self.encoder(known, mask)  # (B, code_dim)
        if noise is not None:
            code = code.repeat_interleave(len(noise) // len(code), 0)  # (B·K, code_dim)
            modulated = code * (1 + self.scale(noise)) + self.shift(noise)
            code = code + F.leaky_relu(self.mix(modulated), 0.2)
        return Encoding(self.bound(self.head(code)), self.offset(code))


class LatentEncoder(Model):
    """Latent encoder E of a frozen GAN, with its moving average (EMA).

    E maps known pixels and mask to z and an offset of G's 4x4 map.  It is trained through the GAN's
    averaged G on training images y of n numbers.  With the mask M and x = G(z, offset):

        loss = (whole · sum |x - y| + context · sum M |x - y|) / n + lam · CE(D(x), 1)

    Only `whole` weighs the hole, which a search cannot see.  D is the GAN's own.

    Encoders that sample, with noise_dim > 0 (Bendel 2023), are no longer trained; commit 7a6e567
    still does.  Their files are completed as before.

    The checkpoint includes the GAN; the hyperparameters gan_kind and gan_settings rebuild it.

    Args:
        gan: The GAN to learn from, or a model that has one.
        mask: Masks for training (masks.py).
        settings: Fields of LatentEncoderSettings.

    Raises:
        ValueError: If the settings are invalid or do not fit the GAN.
    """

    kind = "latent encoder"
    Settings = LatentEncoderSettings
    architecture = ("code_dim", "df_dim", "layers", "noise_dim")
    averages = {"encoder": "ema_encoder", "gan.generator": "gan.ema_generator"}
    training_only = ("discriminator", "reward")
    settings: LatentEncoderSettings
    gan: LatentGAN
    error_calibration: Tensor  # (HOLE_DEPTHS, 2), see uncertainty.py

    def __init__(self, gan: Model, mask: MaskFunction | None = None, **settings: Any):
        gan = gan_of(gan)
        s, g = make(LatentEncoderSettings, settings), gan.settings
        if gan.image_shape != (s.channels, s.image_size, s.image_size):
            raise ValueError(
                f"data.image_size={s.image_size} data.channels={s.channels}: gan= generates other "
                f"images. Use data.image_size={g.image_size} data.channels={g.channels}"
            )
        super().__init__(s, gan_kind=gan.kind, gan_settings=dict(gan.hparams))
        self.automatic_optimization = False
        self.gan = gan.eval().requires_grad_(False)
        self.encoder = LatentNetwork(s, g.z_dim, gan.ema_generator.project.out_features, g.prior)
        self.ema_encoder = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.mask = mask
        self.encoder_noise_dim = s.noise_dim
        if s.noise_dim:
            # The file of a training has them; completion does not use them.
            self.discriminator = Discriminator(s.image_size, s.channels + 1, s.df_dim, s.layers)
            self.register_buffer("reward", torch.ones(HOLE_DEPTHS))
            self.register_buffer("error_calibration", torch.tensor([[1.0, 0.0]] * HOLE_DEPTHS))

    @classmethod
    def from_hyperparameters(cls, hyperparameters: Mapping[str, Any]) -> Self:
        own = dict(hyperparameters)
        kind, gan_settings = own.pop("gan_kind", None), own.pop("gan_settings", None)
        gan = LatentGAN.from_description(kind, gan_settings)
        return cls(gan, **asdict(make(cls.Settings, own)))

    def latent_encoder(self, ema: bool = True) -> nn.Module:
        network = freeze(self.ema_encoder if ema else self.encoder)
        if self.settings.noise_dim:
            network.register_buffer("error_calibration", self.error_calibration)
        return network

    def check(self) -> None:
        super().check()
        if self.settings.noise_dim:
            raise ValueError(
                f"model.noise_dim={self.settings.noise_dim}: encoders that sample are no longer "
                "trained. Use model=one_pass, which samples too"
            )

    def configure_optimizers(self) -> torch.optim.Adam:
        return torch.optim.Adam(self.encoder.parameters(), self.settings.lr, fused=True)

    def on_fit_start(self) -> None:
        """Freeze G and D; the copies are neither trained nor saved."""
        self.frozen_gan = freeze(self.gan.ema_generator), freeze(self.gan.discriminator)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images, s = batch["image"], self.settings  # (B, C, S, S)
        index = self.sample_indices(len(images))  # (B,)
        if s.changed:
            images, _ = augment(images, index, s.seed, s.changed)  # (B, C, S, S)
        mask = self.training_masks(index)  # (B, 1, S, S)
        factor = self.cosine_factor() if s.schedule == "cosine" else 1.0
        log = self.update_network(0, self._loss, self.parts(images, mask), lr=s.lr * factor)
        self.log_step(log, bar=("loss",))
        return log["loss"]

    def _loss(self, images: Tensor, mask: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of images (B, C, S, S) and masks (B, 1, S, S), and the values to log."""
        s = self.settings
        z, offset, _ = self.encoder.encode(images * mask, mask)  # (B, z_dim), (B, map_dim)
        fake = self.frozen_gan[0](z, offset=offset).float()  # (B, C, S, S)
        size = images[0].numel()
        terms = {
            "whole": losses.context_loss(fake, images, torch.ones_like(mask)).mean() / size,
            "context": losses.context_loss(fake, images, mask).mean() / size,
            "prior": losses.prior_loss(self.frozen_gan[1](fake).float()).mean(),
        }
        loss = s.whole * terms["whole"] + s.context * terms["context"] + s.lam * terms["prior"]
        return loss, {"loss": loss} | terms

    def on_train_batch_end(self, *_: object) -> None:
        self.update_average(self.ema_encoder, self.encoder)

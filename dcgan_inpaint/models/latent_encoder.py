"""Latent encoder: a network that predicts z from the known pixels, as the start of a search.

A learned start is from Lahiri et al. (CVPR 2020).  The offset of G's first feature map reaches
images that no z generates, as encoders for larger GANs do (Richardson et al., CVPR 2021).
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint import losses
from dcgan_inpaint.blending import poisson
from dcgan_inpaint.configs import Fraction, NonNegative, Positive, Seed, make, settings
from dcgan_inpaint.data.augmentation import augment
from dcgan_inpaint.masks.masks import MaskFunction
from dcgan_inpaint.models.base import LatentGAN, Model, ModelSettings, Width, gan_of
from dcgan_inpaint.models.networks import Discriminator, Encoder, Encoding, Layers, freeze
from dcgan_inpaint.models.uncertainty import HOLE_DEPTHS, calibrate_error, hole_depths
from dcgan_inpaint.randomness import normal

TRAINING_SAMPLES = 2  # of each image; the fewest that have a spread (Bendel 2023)
D_LR = 2e-4  # Adam's step size for D, as in DCGAN training (Radford 2016)
# Above this value two Gaussian samples lower the loss by any distance between them.
MAX_REWARD = math.sqrt(3)
MAX_LOG_CHANGE = 0.5  # of a reward in one calibration: an epoch with a bad fit does little harm


@settings
class LatentEncoderSettings(ModelSettings):
    """Settings of a LatentEncoder; see conf/model/latent_encoder.yaml.

    code_dim: width between the convolutions and z.  noise_dim: size of the noise w; 0 gives one z
    per image.  df_dim, layers: trunk of the encoder and of a sampler's D.  whole, context, lam, r1:
    weights of the loss terms.  changed: share of training images that are augmented.
    """

    code_dim: Width = 512
    noise_dim: Annotated[int, Field(ge=0, le=4096)] = 0
    df_dim: Width = 32
    layers: Layers = 4
    whole: NonNegative = 1.0
    context: NonNegative = 1.0
    lam: NonNegative = 0.001
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

    first_without_noise = False  # the network is trained with noise

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

    With noise_dim > 0 E is a sampler: x is the mean of two samples, their spread is rewarded, and a
    new D with an R1 penalty learns to distinguish completions, given their mask, from real images
    (Bendel 2023; Mescheder 2018).  `calibrate` adapts the reward for each depth of hole until the
    spread predicts the error of the mean on validation images, and fits the predicted error.

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
    averages = {"encoder": "ema_encoder", "gan.generator": "gan.ema_generator"}
    training_only = ("discriminator", "reward")
    settings: LatentEncoderSettings
    gan: LatentGAN
    reward: Tensor  # (HOLE_DEPTHS,), weight of the spread
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
        self.needs_calibration, self.encoder_noise_dim = s.noise_dim > 0, s.noise_dim
        self.steps_per_batch = 2 if s.noise_dim else 1  # of E and, for a sampler, of its D
        if s.noise_dim:
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

    def configure_optimizers(self) -> list[torch.optim.Adam]:
        optimizers = [torch.optim.Adam(self.encoder.parameters(), self.settings.lr, fused=True)]
        if self.settings.noise_dim:
            parameters = self.discriminator.parameters()
            optimizers.append(torch.optim.Adam(parameters, D_LR, (0.5, 0.999), fused=True))
        return optimizers

    def on_fit_start(self) -> None:
        """Freeze G and D; the copies are neither trained nor saved."""
        self.frozen_gan = freeze(self.gan.ema_generator), freeze(self.gan.discriminator)

    def sample_images(self, encoder: Any, known: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """Return G's images (B, K, C, S, S) in float32 for noise (B, K, noise_dim)."""
        rows = noise.flatten(0, 1) if self.settings.noise_dim else None
        z, offset, _ = encoder.encode(known, mask, rows)
        fake = self.frozen_gan[0](z, offset=offset).float()  # (B·K, C, S, S)
        return fake.unflatten(0, noise.shape[:2])

    def _noise(self, stream: str, index: Tensor, count: int) -> Tensor:
        """Return noise w (B, count, noise_dim) for sample indices (B,)."""
        dim = self.settings.noise_dim
        return normal(stream, self.settings.seed, index, count * dim).unflatten(1, (count, dim))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images, s = batch["image"], self.settings  # (B, C, S, S)
        index = self.sample_indices(len(images))  # (B,)
        if s.changed:
            images, _ = augment(images, index, s.seed, s.changed)  # (B, C, S, S)
        mask = self.training_masks(index)  # (B, 1, S, S)
        noise = self._noise("train w", index, TRAINING_SAMPLES if s.noise_dim else 1)
        fakes = self.sample_images(self.encoder, images * mask, mask, noise)
        mean, size = fakes.mean(1), images[0].numel()  # (B, K, C, S, S) -> (B, C, S, S)
        whole = losses.context_loss(mean, images, torch.ones_like(mask)).mean() / size
        context = losses.context_loss(mean, images, mask).mean() / size
        terms = {"whole": whole, "context": context}
        loss = s.whole * whole + s.context * context
        if s.noise_dim:
            completed = torch.where(mask == 0, fakes[:, 0], images)  # (B, C, S, S)
            terms |= self._discriminator_step(images, completed.detach(), mask)
            terms["prior"] = self.adversarial_loss(torch.cat([completed, mask], 1))
            spread = losses.spread_l1(fakes)  # (B,)
            terms["spread"] = spread.mean()
            # The weight that is exact for Gaussians (Bendel 2023), times the calibrated reward.
            weight = math.sqrt(2 / (math.pi * TRAINING_SAMPLES * (TRAINING_SAMPLES + 1)))
            loss = loss - s.whole * weight * (self.reward[hole_depths(mask)] * spread).mean()
        else:
            terms["prior"] = losses.prior_loss(self.frozen_gan[1](fakes[:, 0]).float()).mean()
        loss = loss + s.lam * terms["prior"]
        factor = self.cosine_factor() if s.schedule == "cosine" else 1.0
        self.update_network(0, loss, lr=s.lr * factor)
        self.log_step({"loss": loss} | terms, bar=("loss",))
        return loss.detach()

    def _logits(self, images: Tensor, mask: Tensor) -> Tensor:
        """Return the logits (B,) of a sampler's D for images (B, C, S, S) beside their mask."""
        return self.discriminator(torch.cat([images, mask], 1)).float()

    def _discriminator_step(
        self, images: Tensor, completed: Tensor, mask: Tensor
    ) -> dict[str, Tensor]:
        """Update a sampler's D on images (B, C, S, S); return the values to log."""
        real, fake = self._logits(images, mask), self._logits(completed, mask)  # (B,) each
        loss_real, loss_fake = losses.discriminator_losses(real, fake)
        loss, r1 = loss_real + loss_fake, self.settings.r1
        penalty = losses.lazy_penalty(lambda x: self._logits(x, mask), images, r1, self.iteration)
        self.update_network(1, loss if penalty is None else loss + penalty)
        return {"d_loss": loss, "D(y)": real.sigmoid().mean(), "D(x)": fake.sigmoid().mean()}

    @torch.no_grad()
    def calibrate(self, images: Tensor, count: int = 8) -> dict[str, float]:
        """Adapt the rewards and fit the predicted error on images not trained on.

        Completions are blended like those of inpaint.py, because blending narrows their spread.

        Args:
            images: (B, C, S, S) in [-1, 1].
            count: Number of samples of each image.

        Returns:
            For each depth of hole that occurs: `spread_ratio_<depth>`, the error of the mean that
            the spread predicts / the true one (root mean squares), and `reward_<depth>`.
        """
        index = torch.arange(len(images), device=self.device)
        mask = self.training_masks(-1 - index)  # (B, 1, S, S); training has indices from 0
        noise = self._noise("calibrate w", index, count)
        fakes = self.sample_images(freeze(self.ema_encoder), images * mask, mask, noise)
        repeated = (rows.repeat_interleave(count, 0) for rows in (images, mask))
        completed = poisson(fakes.flatten(0, 1), *repeated).unflatten(0, (-1, count))
        error = (completed.mean(1) - images).square().sum((1, 2, 3))  # (B,): 0 at known pixels
        spread = completed.var(1).sum((1, 2, 3)) * (1 + 1 / count)  # (B,)
        depths = hole_depths(mask)  # (B,)
        metrics: dict[str, float] = {}
        for depth in depths.unique().tolist():
            rows = depths == depth
            ratio = float((spread[rows].sum() / error[rows].sum()).sqrt())
            self.reward[depth] *= math.exp(min(MAX_LOG_CHANGE, max(-MAX_LOG_CHANGE, 1 - ratio)))
            self.reward[depth].clamp_(max=MAX_REWARD)
            metrics |= {
                f"spread_ratio_{depth}": ratio,
                f"reward_{depth}": float(self.reward[depth]),
            }
        fitted = calibrate_error(completed, images, mask, self.error_calibration)
        self.error_calibration.copy_(fitted)
        return metrics

    def on_train_batch_end(self, *_: object) -> None:
        self.update_average(self.ema_encoder, self.encoder)

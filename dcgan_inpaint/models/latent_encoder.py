"""A learned start for the search: a network from the known pixels to z (after Lahiri 2020), and on
to G's first feature map (as encoders for larger GANs go beyond one z: Richardson 2021)."""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn

from dcgan_inpaint.blending import poisson
from dcgan_inpaint.configs import make
from dcgan_inpaint.data.augmentation import changed
from dcgan_inpaint.images import masked
from dcgan_inpaint.losses import (
    context_loss,
    discriminator_losses,
    generator_loss,
    lazy_penalty,
    prior_loss,
    spread_l1,
)
from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.models.latent_network import LatentEncoderSettings, LatentNetwork
from dcgan_inpaint.models.networks import Discriminator, frozen
from dcgan_inpaint.models.uncertainty import DEPTHS, depths, measured
from dcgan_inpaint.randomness import normal

DRAWS = 2  # of each image in training
D_LR = 2e-4  # Adam's step of a sampler's D, as of DCGAN's
MOST = math.sqrt(3)  # of a reward: beyond it two draws of a Gaussian gain by any distance


class LatentEncoder(Model):
    """E(known pixels, mask) -> z of a frozen GAN and an offset of its G's 4x4 map, with the moving
    average (EMA) of E.

    It learns through the GAN's averaged G, on training images with the holes that `mask(index,
    size)` draws.  Per image y of n numbers, with the mask M and x = G(z, offset):

        loss = (whole · sum |x - y| + context · sum M |x - y|) / n + lam · CE(D(x), 1)

    The hole counts by `whole` alone, which no search can know.  D is the GAN's own.

    With a noise_dim it samples: x is the mean of two draws, their spread is rewarded, and D is one
    of its own that learns to tell completed images, beside their mask, from true ones, under an
    R1 penalty (Bendel 2023; Mescheder 2018).  `calibrate` adapts the reward to each depth of hole,
    so that completions of images not trained on spread as far as their mean is wrong, and
    measures how far it is wrong.

    The checkpoint holds the GAN as well, since z means nothing without it; gan_kind and
    gan_settings of its hyperparameters rebuild it there.  `mask` is for training only.  Takes
    LatentEncoderSettings by name; raises ValueError when they do not fit, or not the GAN.
    """

    kind = "latent encoder"
    Settings = LatentEncoderSettings
    averages = {"encoder": "ema_encoder", "gan.generator": "gan.ema_generator"}
    training_only = ("discriminator", "reward")
    settings: LatentEncoderSettings
    gan: LatentGAN
    ema_encoder: LatentNetwork
    discriminator: Discriminator
    reward: Tensor
    doubt: Tensor

    def __init__(
        self,
        gan: LatentGAN,
        mask: Callable[[Tensor, int], Tensor] | None = None,
        **settings: Any,
    ):
        s, g = make(LatentEncoderSettings, settings), gan.settings
        if gan.image_shape != (s.channels, s.image_size, s.image_size):
            raise ValueError(
                f"the GAN makes images {gan.image_shape}, data has "
                f"{(s.channels, s.image_size, s.image_size)}: use data.image_size={g.image_size} "
                f"data.channels={g.channels}"
            )
        super().__init__(s, gan_kind=gan.kind, gan_settings=dict(gan.hparams))
        self.automatic_optimization = False
        self.gan = gan.eval().requires_grad_(False)
        map_dim = gan.ema_generator.project.out_features
        self.encoder = LatentNetwork(s, g.z_dim, map_dim, g.prior)
        self.ema_encoder = copy.deepcopy(self.encoder).eval().requires_grad_(False)
        self.mask = mask
        self.calibrates = s.noise_dim > 0
        self.encoder_noise_dim = s.noise_dim
        if s.noise_dim:
            self.discriminator = Discriminator(s.image_size, s.channels + 1, s.df_dim, s.layers)
            self.register_buffer("reward", torch.ones(DEPTHS))  # weight of the spread
            self.register_buffer("doubt", torch.tensor([[1.0, 0.0]] * DEPTHS))  # as draws say

    @classmethod
    def rebuild(cls, hyperparameters: Mapping[str, Any]) -> Self:
        own = dict(hyperparameters)
        kind, sizes = own.pop("gan_kind", None), own.pop("gan_settings", None)
        known = LatentGAN.of_kind(kind) if isinstance(kind, str) else None
        if known is None:
            gans = (name for name, model in Model.kinds.items() if issubclass(model, LatentGAN))
            raise ValueError(f"gan_kind={kind}: choose one of {', '.join(gans)}")
        if not isinstance(sizes, Mapping):
            raise ValueError("gan_settings: no settings of a GAN")
        return cls(known.rebuild(sizes), **asdict(make(LatentEncoderSettings, own)))

    def latent_encoder(self) -> nn.Module:
        network = frozen(self.ema_encoder)
        if self.settings.noise_dim:
            network.register_buffer("doubt", self.doubt)
        return network

    @property
    def iteration(self) -> int:
        """Batches trained on; a sampling encoder takes two optimizer steps for each."""
        return self.global_step // (2 if self.settings.noise_dim else 1)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Adam(self.encoder.parameters(), self.settings.lr, fused=True)
        ]
        if self.settings.noise_dim:
            judge = self.discriminator.parameters()
            optimizers.append(torch.optim.Adam(judge, D_LR, (0.5, 0.999), fused=True))
        return optimizers

    def on_fit_start(self) -> None:
        """Freeze G and D into their fast form, which is neither trained nor saved."""
        self.teachers = frozen(self.gan.ema_generator), frozen(self.gan.discriminator)

    def draws(self, encoder: nn.Module, known: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """What G makes of noise (B, K, noise_dim): (B, K, C, S, S), float32."""
        z, offset = encoder(known, mask, noise.flatten(0, 1) if self.settings.noise_dim else None)
        fake = self.teachers[0](z, offset=offset).float()  # (B·K, C, S, S)
        return fake.unflatten(0, noise.shape[:2])

    def _noise(self, stream: str, index: Tensor, count: int) -> Tensor:
        """w (B, count, noise_dim) for the given numbers (B,)."""
        dim = self.settings.noise_dim
        return normal(stream, self.settings.seed, index, count * dim).unflatten(1, (count, dim))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        images, s = batch["image"], self.settings  # (B, C, S, S)
        rows = self.rows(len(images))
        if s.changed:
            images = changed(images, rows, s.seed, s.changed)  # (B, C, S, S)
        mask = self.training_masks(rows)  # (B, 1, S, S)
        noise = self._noise("train w", rows, DRAWS if s.noise_dim else 1)
        fakes = self.draws(self.encoder, masked(images, mask), mask, noise)  # (B, P, C, S, S)
        mean, size = fakes.mean(1), images[0].numel()
        whole = context_loss(mean, images, torch.ones_like(mask)).mean() / size
        context = context_loss(mean, images, mask).mean() / size
        parts = {"whole": whole, "context": context}
        loss = s.whole * whole + s.context * context
        if s.noise_dim:
            completed = torch.where(mask == 0, fakes[:, 0], images)  # (B, C, S, S)
            parts |= self._judge_step(images, completed.detach(), mask)
            self.discriminator.requires_grad_(False)
            parts["prior"] = generator_loss(self._logits(completed, mask))
            self.discriminator.requires_grad_(True)
            spread = spread_l1(fakes)  # (B,)
            parts["spread"] = spread.mean()
            # the weight that is right for Gaussians (Bendel 2023), times what was found
            right = math.sqrt(2 / (math.pi * DRAWS * (DRAWS + 1)))
            loss = loss - s.whole * right * (self.reward[depths(mask)] * spread).mean()
        else:
            parts["prior"] = prior_loss(self.teachers[1](fakes[:, 0]).float()).mean()
        loss = loss + s.lam * parts["prior"]
        self._update(0, loss, s.lr * self._decay())
        if self.logs_now:
            self.log("train/loss", loss.detach(), prog_bar=True)
            self.log_dict({f"train/{name}": part.detach() for name, part in parts.items()})
            self.log("iteration", float(self.iteration))
        return loss.detach()

    def _logits(self, pictures: Tensor, mask: Tensor) -> Tensor:
        """Of its own D: images (B, C, S, S) beside their mask -> (B,)."""
        return self.discriminator(torch.cat([pictures, mask], 1)).float()

    def _judge_step(self, images: Tensor, completed: Tensor, mask: Tensor) -> dict[str, Tensor]:
        real, fake = self._logits(images, mask), self._logits(completed, mask)
        loss_real, loss_fake = discriminator_losses(real, fake)
        loss, judge = loss_real + loss_fake, partial(self._logits, mask=mask)
        penalty = lazy_penalty(judge, images, self.settings.r1, self.iteration)
        self._update(1, loss if penalty is None else loss + penalty, D_LR)
        logits = {"D(y)": real, "D(x)": fake}
        means = {name: torch.sigmoid(logit.detach()).mean() for name, logit in logits.items()}
        return {"d_loss": loss} | means

    def _decay(self) -> float:
        """The share of lr for this iteration."""
        if self.settings.schedule == "constant":
            return 1.0
        trainer = self.trainer
        steps = trainer.max_epochs * trainer.num_training_batches  # type: ignore[operator]
        if trainer.max_steps > 0:  # which counts the steps of each optimizer
            steps = min(steps, trainer.max_steps // (2 if self.settings.noise_dim else 1))
        return (1 + math.cos(math.pi * min(1.0, self.iteration / steps))) / 2

    def _update(self, which: int, loss: Tensor, lr: float) -> None:
        """One Adam update of E (which = 0) or of its D (1)."""
        optimizers = self.optimizers()
        optimizer: Any = optimizers[which] if isinstance(optimizers, list) else optimizers
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    @torch.no_grad()
    def calibrate(self, images: Tensor, count: int = 8) -> dict[str, float]:
        """Adapt the rewards by `count` completions of images not trained on (B, C, S, S), and
        measure the doubt (doubt.py).

        Returns for each depth of hole that was drawn spread / error over the holes (root mean
        squares: the error that the spread predicts for the mean, beside the true one), and its
        reward.  The completions are blended, as those of inpaint.py: known pixels nearby bind them.
        """
        index = torch.arange(len(images), device=self.device)
        mask = self.training_masks(-1 - index)  # (B, 1, S, S)
        noise = self._noise("calibrate w", index, count)
        fakes = self.draws(frozen(self.ema_encoder), masked(images, mask), mask, noise)
        again = (pictures.repeat_interleave(count, 0) for pictures in (images, mask))
        completed = poisson(fakes.flatten(0, 1), *again).unflatten(0, (-1, count))
        # (B,): known pixels have none
        error = (completed.mean(1) - images).square().sum((1, 2, 3))
        spread = completed.var(1).sum((1, 2, 3)) * (1 + 1 / count)  # (B,)
        depth = depths(mask)
        found: dict[str, float] = {}
        for d in range(DEPTHS):
            if (here := depth == d).any():
                ratio = float((spread[here].sum() / error[here].sum()).sqrt())
                self.reward[d] *= math.exp(min(0.5, max(-0.5, 1 - ratio)))
                self.reward[d].clamp_(max=MOST)
                found |= {f"spread_ratio_{d}": ratio, f"reward_{d}": float(self.reward[d])}
        self.doubt.copy_(measured(completed, images, mask, self.doubt))
        return found

    def on_train_batch_end(self, *_: object) -> None:
        self.update_average(self.ema_encoder, self.encoder)

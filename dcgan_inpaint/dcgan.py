"""The DCGAN: one discriminator step and g_steps generator steps per batch, all with the same z.

Radford 2016 in the schedule of Kim's and Amos's TensorFlow code (method: README, "The method").
"""

import copy
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor

from dcgan_inpaint.networks import Discriminator, Generator
from dcgan_inpaint.objective import discriminator_losses, generator_loss
from dcgan_inpaint.randomness import latents


class DCGAN(LightningModule):
    """Generator, Discriminator and the generator's moving average (EMA).

    Pictures are (B, channels, image_size, image_size) in [-1, 1]; z is (B, z_dim) from `prior`:
    "uniform" U[-1, 1] or "normal" N(0, 1).  `crop` records how the training pictures were framed
    (side of the central square / short side), so that completion frames others alike.
    Raises ValueError when the sizes do not fit (see networks.py).
    """

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
        super().__init__()
        for name, value in (("z_dim", z_dim), ("g_steps", g_steps)):
            if value < 1:
                raise ValueError(f"{name}={value}: use 1 or more")
        if channels not in (1, 3):
            raise ValueError(f"channels={channels}: use 1 or 3")
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay={ema_decay}: use 0 (no averaging) or more, below 1")
        latents(prior, 0, torch.arange(0), 1)  # an unknown prior fails here, not in training
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.data: dict[str, Any] | None = None  # the data configuration, kept in the checkpoint
        self.generator = Generator(image_size, channels, z_dim, gf_dim, widths)
        self.discriminator = Discriminator(image_size, channels, df_dim)
        self.ema_generator = copy.deepcopy(self.generator).eval().requires_grad_(False)

    @property
    def iteration(self) -> int:
        """Batches trained on; Lightning's global_step counts every optimizer step instead."""
        return self.global_step // (1 + self.hparams["g_steps"])

    @property
    def logs_now(self) -> bool:
        """Whether the iteration just done is one of each log_every_n_steps."""
        return self.iteration % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def forward(self, z: Tensor, ema: bool = True) -> Tensor:
        """Samples: z (B, z_dim) -> pictures in [-1, 1], moving statistics, EMA weights or raw."""
        generator = self.ema_generator if ema else self.generator
        was_training = generator.training
        images = generator.eval()(z)  # (B, C, S, S)
        generator.train(was_training)
        return images

    def latents(self, index: Tensor, seed: int | None = None) -> Tensor:
        """z (B, z_dim) of the prior for the given indices (B,)."""
        seed = self.hparams["seed"] if seed is None else seed
        return latents(self.hparams["prior"], seed, index, self.hparams["z_dim"])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        lr, betas = self.hparams["lr"], (self.hparams["beta1"], 0.999)
        return [
            torch.optim.Adam(network.parameters(), lr, betas, fused=True)
            for network in (self.discriminator, self.generator)
        ]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]  # (B, C, S, S)
        # rank and world size keep the draws of parallel processes apart
        rows = self.iteration * self.trainer.world_size + self.global_rank
        index = rows * len(images) + torch.arange(len(images), device=self.device)
        z = self.latents(index)  # (B, z_dim): the same for all steps of this batch

        # The graph of this G(z) serves the D step and the first G step.  The original computes it
        # for each, and so lets its moving statistics follow the same batch twice: 0.9².
        self.generator.set_decay(0.9**2)
        fake = self.generator(z)  # (B, C, S, S)
        self.generator.set_decay(0.9)
        log = self._discriminator_step(images, fake.detach())
        for k in range(self.hparams["g_steps"]):
            log["train/g_loss"] = self._generator_step(fake if k == 0 else self.generator(z), k)
        self._update_ema()
        if self.logs_now:
            self.log_dict(log | {"iteration": float(self.iteration)})

    def _discriminator_step(self, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
        real_logits = self.discriminator(real).float()  # (B,): losses in fp32 also under bf16
        fake_logits = self.discriminator(fake).float()  # (B,)
        loss_real, loss_fake = discriminator_losses(real_logits, fake_logits)
        self._update(0, loss_real + loss_fake, count=self.iteration + 1)
        return {
            "train/d_loss": (loss_real + loss_fake).detach(),
            "train/d_loss_real": loss_real.detach(),
            "train/d_loss_fake": loss_fake.detach(),
            "train/D(x)": torch.sigmoid(real_logits.detach()).mean(),
            "train/D(G(z))": torch.sigmoid(fake_logits.detach()).mean(),
        }

    def _generator_step(self, fake: Tensor, k: int) -> Tensor:
        self.discriminator.requires_grad_(False)  # its weight gradients would go to waste
        loss = generator_loss(self.discriminator(fake).float())
        self._update(1, loss, count=self.iteration * self.hparams["g_steps"] + k + 1)
        self.discriminator.requires_grad_(True)
        return loss.detach()

    def _update(self, which: int, loss: Tensor, count: int) -> None:
        """One Adam update, the count-th (from 1), of D (which = 0) or G (1)."""
        optimizer = self.optimizers()[which]  # type: ignore[index]
        for group in optimizer.param_groups:
            # TensorFlow adds eps to the uncorrected sqrt(v), torch to sqrt(v / (1 - beta2^count)):
            # this makes torch's update TensorFlow's (30 times torch's eps at the first one)
            group["eps"] = 1e-8 / math.sqrt(1 - group["betas"][1] ** count)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()

    @torch.no_grad()
    def _update_ema(self) -> None:
        """Follow G with a decay that warms up, so that the first average is not the random init."""
        t = self.iteration
        decay = min(self.hparams["ema_decay"], (1 + t) / (10 + t))
        weights = self.generator.state_dict()
        for name, average in self.ema_generator.state_dict().items():
            if average.is_floating_point():
                average.lerp_(weights[name], 1 - decay)
            else:
                average.copy_(weights[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"iteration": self.iteration, "data": self.data}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.data = self.data or checkpoint.get("data")


def load_dcgan(path: str | Path) -> DCGAN:
    """A trained DCGAN on the CPU, from a checkpoint of train.py (or Lightning) and nothing else.

    Raises FileNotFoundError for a missing file, ValueError for one that is truncated or not ours.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"ckpt={path}: no such file; train.py writes <its run>/last.ckpt")
    try:
        return DCGAN.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"ckpt={path}: truncated, or not a DCGAN checkpoint of this project ({reason[0]})"
        ) from error


def data_of(dcgan: DCGAN, chosen: Mapping[str, Any] | None, ckpt: str) -> Mapping[str, Any]:
    """The data configuration to go with a checkpoint: `chosen`, or null: what it was trained on.

    Raises ValueError when there is none, when it is not ours or does not fit the model.
    """
    data = chosen or dcgan.data
    if data is None:
        raise ValueError(f"ckpt={ckpt} does not say what it was trained on: give data=...")
    if not data["_target_"].startswith("dcgan_inpaint.data."):  # a checkpoint may be anybody's
        raise ValueError(f"ckpt={ckpt}: its data source {data['_target_']} is not ours")
    size, channels = dcgan.hparams["image_size"], dcgan.hparams["channels"]
    if (data["image_size"], data["channels"]) != (size, channels):
        raise ValueError(
            f"ckpt={ckpt} makes pictures of {size} px and {channels} channels, data has "
            f"{data['image_size']} and {data['channels']}: use data.image_size={size} "
            f"data.channels={channels}"
        )
    return data

"""What models share that learn against a discriminator: their updates, average and checkpoint."""

import copy
import math
import pickle
from pathlib import Path
from typing import Any, TypeVar

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from dcgan_inpaint.networks import Discriminator
from dcgan_inpaint.objective import discriminator_losses, generator_loss


class AdversarialModule(LightningModule):
    """A generator with its moving average (EMA), and a discriminator; `kind` is what it is called.

    Pictures are (B, channels, image_size, image_size) in [-1, 1].  A subclass saves its arguments
    as hyperparameters: image_size, channels, crop, lr, beta1, ema_decay, and where they are not
    `lr` and 1, d_lr and g_steps.  Raises ValueError for an ema_decay out of range.
    """

    kind: str
    generator: nn.Module
    ema_generator: nn.Module

    def __init__(self, generator: nn.Module, discriminator: Discriminator, ema_decay: float):
        super().__init__()
        if not 0 <= ema_decay < 1:
            raise ValueError(f"ema_decay={ema_decay}: use 0 (no averaging) or more, below 1")
        self.automatic_optimization = False
        self.data: dict[str, Any] | None = None  # the data configuration, kept in the checkpoint
        self.generator, self.discriminator = generator, discriminator
        self.ema_generator = copy.deepcopy(generator).eval().requires_grad_(False)

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, S, S)"""
        size = self.hparams["image_size"]
        return self.hparams["channels"], size, size

    @property
    def iteration(self) -> int:
        """Batches trained on; Lightning's global_step counts every optimizer step instead."""
        return self.global_step // (1 + self.hparams.get("g_steps", 1))

    @property
    def logs_now(self) -> bool:
        """Whether the iteration just done is one of each log_every_n_steps."""
        return self.iteration % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def rows(self, count: int) -> Tensor:
        """The numbers (B,) of this batch's pictures among all that were trained on, to draw by."""
        # rank and world size keep the draws of parallel processes apart
        batches = self.iteration * self.trainer.world_size + self.global_rank
        return batches * count + torch.arange(count, device=self.device)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        lr, betas = self.hparams["lr"], (self.hparams["beta1"], 0.999)
        rates = ((self.discriminator, self.hparams.get("d_lr", lr)), (self.generator, lr))
        return [
            torch.optim.Adam(network.parameters(), rate, betas, fused=True)
            for network, rate in rates
        ]

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

    def _adversarial_loss(self, fake: Tensor) -> Tensor:
        """CE(D(fake), 1), of which D takes no gradient: its weight gradients would go to waste."""
        self.discriminator.requires_grad_(False)
        loss = generator_loss(self.discriminator(fake).float())
        self.discriminator.requires_grad_(True)
        return loss

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
        checkpoint |= {"kind": self.kind, "iteration": self.iteration, "data": self.data}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.data = self.data or checkpoint.get("data")


Model = TypeVar("Model", bound=AdversarialModule)


def load_model(path: str | Path, *classes: type[Model]) -> Model:
    """A trained model of one of `classes`, on the CPU, from its checkpoint and nothing else.

    Raises FileNotFoundError for a missing file, ValueError for one that is truncated, not ours, or
    of another kind of model.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"ckpt={path}: no such file; train.py writes <its run>/last.ckpt")
    kinds = {model.kind: model for model in classes}
    wanted = " or ".join(kinds)
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        kind = saved.get("kind", "DCGAN")  # before there were others, it was not said
        if kind in kinds:
            return kinds[kind].load_from_checkpoint(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"ckpt={path}: truncated, or not a {wanted} checkpoint of this project ({reason[0]})"
        ) from error
    raise ValueError(f"ckpt={path} holds a {kind}: use a checkpoint of a {wanted}")

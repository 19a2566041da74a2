"""What train.py trains: its pictures, its iteration, its checkpoint."""

from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn


class Model(LightningModule):
    """Base of the models; `kind` is what it is called, in its checkpoint and in messages.

    Pictures are (B, channels, image_size, image_size) in [-1, 1].  A subclass saves its arguments
    as hyperparameters: image_size, channels, crop (how the training pictures were framed: side of
    the central square / short side) and, where a network has an average, ema_decay.
    """

    kind: str

    def __init__(self) -> None:
        super().__init__()
        self.data: dict[str, Any] | None = None  # the data configuration, kept in the checkpoint

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """(C, S, S)"""
        size = self.hparams["image_size"]
        return self.hparams["channels"], size, size

    @property
    def iteration(self) -> int:
        """Batches trained on; where one takes several optimizer steps, global_step counts those."""
        return self.global_step

    @property
    def logs_now(self) -> bool:
        """Whether the iteration just done is one of each log_every_n_steps."""
        return self.iteration % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]

    def rows(self, count: int) -> Tensor:
        """The numbers (B,) of this batch's pictures among all that were trained on, to draw by."""
        # rank and world size keep the draws of parallel processes apart
        batches = self.iteration * self.trainer.world_size + self.global_rank
        return batches * count + torch.arange(count, device=self.device)

    @torch.no_grad()
    def update_average(self, average: nn.Module, network: nn.Module) -> None:
        """Follow a network with a decay that warms up, so that its random init leaves no trace."""
        t = self.iteration
        decay = min(self.hparams["ema_decay"], (1 + t) / (10 + t))
        weights = network.state_dict()
        for name, value in average.state_dict().items():
            if value.is_floating_point():
                value.lerp_(weights[name], 1 - decay)
            else:
                value.copy_(weights[name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"kind": self.kind, "iteration": self.iteration, "data": self.data}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.data = self.data or checkpoint.get("data")


def check_decay(ema_decay: float) -> None:
    """Raise ValueError for an ema_decay out of range."""
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay={ema_decay}: use 0 (no averaging) or more, below 1")

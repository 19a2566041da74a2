"""What train.py trains and the other scripts load: its pictures, its iteration, its checkpoint."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

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


AnyModel = TypeVar("AnyModel", bound=Model)


def load_model(path: str | Path, *classes: type[AnyModel], option: str = "ckpt") -> AnyModel:
    """A trained model of one of `classes`, on the CPU, from its checkpoint and nothing else.

    Raises FileNotFoundError for a missing file, ValueError for one that is truncated, not ours, or
    of another kind of model; `option` is what messages call it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"{option}={path}: no such file; train.py writes <its run>/last.ckpt"
        )
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
            f"{option}={path}: truncated, or not a {wanted} checkpoint of this project "
            f"({reason[0]})"
        ) from error
    raise ValueError(f"{option}={path} holds a {kind}: use a checkpoint of a {wanted}")


def data_of(model: Model, chosen: Mapping[str, Any] | None, ckpt: str) -> Mapping[str, Any]:
    """The data configuration to go with a checkpoint: `chosen`, or null: what it was trained on.

    Raises ValueError when there is none, when it is not ours or does not fit the model.
    """
    data = chosen or model.data
    if data is None:
        raise ValueError(f"ckpt={ckpt} does not say what it was trained on: give data=...")
    if not data["_target_"].startswith("dcgan_inpaint.data."):  # a checkpoint may be anybody's
        raise ValueError(f"ckpt={ckpt}: its data source {data['_target_']} is not ours")
    channels, size, _ = model.picture_shape
    if (data["image_size"], data["channels"]) != (size, channels):
        raise ValueError(
            f"ckpt={ckpt} makes pictures of {size} px and {channels} channels, data has "
            f"{data['image_size']} and {data['channels']}: use data.image_size={size} "
            f"data.channels={channels}"
        )
    return data

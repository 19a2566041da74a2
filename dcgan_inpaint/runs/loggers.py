"""What a run is logged to: files in its folder, TensorBoard, Weights & Biases."""

import os
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable

import wandb
from hydra.utils import instantiate
from lightning_fabric.loggers import Logger as AnyLogger
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torchvision.transforms.functional import pil_to_tensor

PATIENCE = 5  # seconds that W&B has to answer
WITHOUT = "logger.wandb.offline=true keeps the run here"


def open_loggers(cfg: DictConfig) -> list[Logger]:
    """The loggers of cfg.logger, W&B's with cfg.tags; nothing is written yet.

    Raises ValueError when W&B is to be sent to and there is no key or no answer.
    """
    parts = cfg.logger or {}
    loggers = [
        instantiate(part, **({"tags": list(cfg.tags)} if name == "wandb" else {}))
        for name, part in parts.items()
    ]
    for logger, part in zip(loggers, parts.values(), strict=True):
        mode = os.environ.get("WANDB_MODE", "online")
        if isinstance(logger, WandbLogger) and not part.get("offline") and mode == "online":
            _check_wandb()
    return loggers


@rank_zero_only  # of the processes of one training
def _check_wandb() -> None:
    url, failures = wandb.setup().settings.base_url, ["no answer"]

    def ask() -> None:
        try:
            urllib.request.urlopen(url, timeout=PATIENCE).close()
            failures.clear()
        except urllib.error.HTTPError:
            failures.clear()  # which is an answer
        except OSError as error:
            failures[:] = [str(error)]

    asking = threading.Thread(target=ask, daemon=True)  # looking up a name knows no timeout
    asking.start()
    asking.join(PATIENCE + 1)
    if failures:
        raise ValueError(f"logger=wandb: {url} cannot be reached ({failures[0]}): {WITHOUT}")
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise ValueError(f"logger=wandb: no key of W&B is found ({error}): {WITHOUT}") from error


def log_image(
    loggers: Iterable[AnyLogger], name: str, image: Image.Image, step: int | None = None
) -> None:
    """Show an image in those of the loggers that can: W&B and TensorBoard."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pil_to_tensor(image), step)


def finish(loggers: Iterable[Logger]) -> None:
    """End the W&B run, so that the next one of this process (a multirun) does not continue it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()

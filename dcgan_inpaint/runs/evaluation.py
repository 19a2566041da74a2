"""Completing a list of pictures, and judging samples: how good a model is."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch.utils.data import Subset

from dcgan_inpaint.data.loader import Pictures, batches
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.quality.samples import judge_samples
from dcgan_inpaint.runs.writer import CompletionWriter


def completing_trainer(
    options: Mapping[str, Any], loggers: Iterable[Logger], writer: CompletionWriter
) -> Trainer:
    """What completes by `options` (conf/trainer) and hands each batch to `writer`.

    Raises ValueError for several devices, which would all write.
    """
    # a search takes gradients
    trainer = Trainer(**options, logger=loggers, callbacks=[writer], inference_mode=False)
    if trainer.world_size > 1:
        raise ValueError(f"trainer.devices={options['devices']}: completion runs on one")
    return trainer


def complete(
    trainer: Trainer,
    writer: CompletionWriter,
    module: LightningModule,
    pictures: Pictures,
    batch_size: int,
) -> None:
    """Complete, by `module`, those of `pictures` that the writer has a name for and not finished.

    `trainer` is the writer's `completing_trainer`.
    """
    unfinished = [i for i, name in enumerate(writer.names) if name not in writer.finished]
    if unfinished:
        todo = batches(Subset(pictures, unfinished), batch_size)
        trainer.predict(module, todo, return_predictions=False)


def judge(model: LatentGAN, real: np.ndarray, count: int, loggers: Iterable[Logger]) -> str:
    """Compare `count` samples with pictures, log it as samples/..., and say it in a line."""
    quality = judge_samples(model, real, count)
    for logger in loggers:
        logger.log_metrics({f"samples/{name}": value for name, value in quality.items()})
        logger.save()
    return ", ".join(f"{name} {value:.3f}" for name, value in quality.items())

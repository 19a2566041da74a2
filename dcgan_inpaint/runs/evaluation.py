"""Completing a list of pictures, and judging samples: how good a model is."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from torch.utils.data import Subset

from dcgan_inpaint.data.loader import batches
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.quality.features import fd_efflite0, load_efflite0
from dcgan_inpaint.quality.samples import frechet_inception_distance, judge_samples, load_inception
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
    trainer: Trainer, writer: CompletionWriter, module: LightningModule, batch_size: int
) -> None:
    """Complete, by `module`, what the writer has no record of, and show all.

    `trainer` is the writer's `completing_trainer`.  A batch is of the same pictures in every
    sitting: one that was cut off is completed as if it had not been, to the bit.
    """
    count = len(writer.names)
    blocks = [range(i, min(i + batch_size, count)) for i in range(0, count, batch_size)]
    todo = [i for block in blocks if any(i not in writer.rows for i in block) for i in block]
    if todo:
        unfinished = batches(Subset(writer.pictures, todo), batch_size)
        trainer.predict(module, unfinished, return_predictions=False)
    writer.show(trainer.loggers)


def judge(model: LatentGAN, real: np.ndarray, count: int, trainer: Trainer) -> str:
    """Compare `count` samples with pictures, log it as samples/..., and say it in a line."""
    quality = judge_samples(model, real, count, bar=trainer.progress_bar_callback is not None)
    for logger in trainer.loggers:
        logger.log_metrics({f"samples/{name}": value for name, value in quality.items()})
        logger.save()
    return ", ".join(f"{name} {value:.3f}" for name, value in quality.items())


def load_distances(fid: str | None, features: bool, side: int) -> dict[str, Callable[..., float]]:
    """By name, what compares sets of pictures of `side` px with a network, for `judge_samples`.

    Raises what `load_inception` and `load_efflite0` do.
    """
    distances: dict[str, Callable[..., float]] = {}
    if fid:
        distances["fid"] = partial(frechet_inception_distance, inception=load_inception(fid))
    if features:
        distances["fd_efflite0"] = partial(fd_efflite0, network=load_efflite0(side))
    return distances

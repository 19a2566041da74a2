"""Completing a list of images, and judging samples: how good a model is."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import Subset

from dcgan_inpaint.data.loader import batches
from dcgan_inpaint.metrics.features import fd_efflite0, load_efflite0
from dcgan_inpaint.metrics.samples import frechet_inception_distance, judge_samples, load_inception
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.runs.writer import CompletionWriter


def make_trainer(options: Mapping[str, Any], **more: Any) -> Trainer:
    """A Trainer by `options` (conf/trainer), whose processes share the images as is said here and
    in data/loader.py.

    Raises ValueError for devices that are not there, and for several processes in a multirun, which
    Lightning starts but once.
    """
    try:
        trainer = Trainer(**options, **more, use_distributed_sampler=False)
    except (MisconfigurationException, ModuleNotFoundError) as error:
        asked = (f"trainer.{key}={options.get(key)}" for key in ("accelerator", "devices"))
        raise ValueError(f"{' '.join(asked)}: {error}") from error
    many = trainer.world_size > 1 and HydraConfig.initialized()
    if many and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(f"{trainer.world_size} processes: one run a command, without -m")
    return trainer


def completing_trainer(
    options: Mapping[str, Any], loggers: Iterable[Logger], writer: CompletionWriter
) -> Trainer:
    """What completes by `options` (conf/trainer) and hands each batch to `writer`.

    Raises what `make_trainer` does.
    """
    # a search takes gradients
    return make_trainer(options, logger=loggers, callbacks=[writer], inference_mode=False)


def alone(options: Mapping[str, Any]) -> dict[str, Any]:
    """The same options (conf/trainer) for one process on one device."""
    return {**options, "devices": 1, "num_nodes": 1, "strategy": "auto"}


def complete(
    trainer: Trainer,
    writer: CompletionWriter,
    module: LightningModule,
    batch_size: int,
    shard: str | None = None,
) -> bool:
    """Complete, by `module`, what the writer has no record of, and show all; whether that was done.

    `trainer` is the writer's `completing_trainer`.  A batch is of the same images in every
    sitting and however many processes share them: every n-th batch is for each of the trainer's n,
    and the first shows all.  shard="3/16" completes the third of sixteen shares alone, and shows
    all if that leaves nothing to complete.
    """
    count = len(writer.names)
    blocks = [range(i, min(i + batch_size, count)) for i in range(0, count, batch_size)]
    rank, shares = trainer.global_rank, trainer.world_size
    if shard is not None:
        part, shares = map(int, shard.split("/"))
        rank = part - 1
    open_blocks = [any(i not in writer.rows for i in block) for block in blocks]
    mine = [
        i for k, block in enumerate(blocks) if open_blocks[k] and k % shares == rank for i in block
    ]
    # those that were started by the first process have to join in whatever is left
    if mine or trainer.world_size > 1 and (any(open_blocks) or trainer.global_rank):
        unfinished = batches(Subset(writer.images, mine), batch_size)
        trainer.predict(module, unfinished, return_predictions=False)
        trainer.strategy.barrier()
    if not trainer.is_global_zero or not writer.reread():
        if shard is not None:
            print(f"{shard} completed: the same without shard= shows all")
        return False
    writer.show(trainer.loggers)
    return True


def judge(model: LatentGAN, real: np.ndarray, count: int, trainer: Trainer) -> str:
    """Compare `count` samples with images, log it as samples/..., and say it in a line."""
    quality = judge_samples(model, real, count, bar=trainer.progress_bar_callback is not None)
    for logger in trainer.loggers:
        logger.log_metrics({f"samples/{name}": value for name, value in quality.items()})
        logger.save()
    return ", ".join(f"{name} {value:.3f}" for name, value in quality.items())


def load_distances(fid: str | None, features: bool, side: int) -> dict[str, Callable[..., float]]:
    """By name, what compares sets of images of `side` px with a network, for `judge_samples`.

    Raises what `load_inception` and `load_efflite0` do.
    """
    distances: dict[str, Callable[..., float]] = {}
    if fid:
        distances["fid"] = partial(frechet_inception_distance, inception=load_inception(fid))
    if features:
        distances["fd_efflite0"] = partial(fd_efflite0, network=load_efflite0(side))
    return distances

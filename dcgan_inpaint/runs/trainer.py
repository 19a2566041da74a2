"""Build trainers and loggers, and complete a data set with them."""

import inspect
import itertools
import math
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import wandb
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_object, instantiate
from lightning_fabric.loggers import Logger as FabricLogger
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_info, rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch.utils.data import Subset
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.checksums import check_archive
from dcgan_inpaint.data.batches import make_dataloader
from dcgan_inpaint.errors import explain_devices, show, unwrapped
from dcgan_inpaint.files import atomic_write
from dcgan_inpaint.runs.records import CompletionWriter
from dcgan_inpaint.runs.report import Summary, write_report

# A step of D leaves the parameters of G unused, and a step of G those of D.
DDP = "ddp_find_unused_parameters_true"
WANDB_TIMEOUT = 5  # seconds, far more than a reachable server needs
WANDB_OFFLINE = "Set logger.wandb.offline=true to store the run locally"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints so that a complete one always exists.

    The previous checkpoint stays as `<name>-1.ckpt`. Lightning itself writes to the system's
    temporary directory. If that is another file system, the final move is a copy over the only
    checkpoint, and an interruption or a full disk destroys it.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint and read it back before it replaces the previous one.

        Raises:
            OSError: If the disk is full, missing, or returns other data than was written. The
                previous checkpoint is unchanged.
        """
        path = Path(path)
        with atomic_write(path) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # torch's report of a full disk
                raise OSError(f"{path}: cannot be written ({error})") from error
            file.flush()
            os.fsync(file.fileno())
            if not _is_complete(Path(file.name)):
                raise OSError(f"{path}: the disk returns other data than was written")
            if _is_complete(path):  # a damaged checkpoint must not replace the last complete one
                _link_or_copy(path, path.with_name(f"{path.stem}-1{path.suffix}"))


def _link_or_copy(path: Path, other: Path) -> None:
    """Give a file a second name; unlike a move, keep the first.

    A file system without hard links gets a copy.
    """
    other.unlink(missing_ok=True)
    try:
        os.link(path, other)
    except OSError:
        with path.open("rb") as source, atomic_write(other, durable=True) as copy:
            shutil.copyfileobj(source, copy)


def _is_complete(archive: Path) -> bool:
    try:
        check_archive(archive)
    except (OSError, ValueError):
        return False
    return True


def make_trainer(
    options: Mapping[str, Any],
    loggers: Iterable[Logger],
    callbacks: Sequence[Callback],
    train_batch_size: int | None = None,
) -> Trainer:
    """Return a Trainer for training or completing.

    Args:
        options: Arguments of `Trainer`; see conf/trainer.
        loggers: The run's loggers.
        callbacks: Callbacks in the order in which they run. Lightning moves checkpoint callbacks
            to the end.
        train_batch_size: Images per training iteration and process; None for completing.

    Raises:
        ValueError: If the requested devices do not exist, if several processes train without DDP,
            or for several processes in a Hydra multirun, where Lightning starts the other processes
            only once.
    """
    try:
        trainer = Trainer(
            **options,
            logger=loggers,
            callbacks=list(callbacks),
            plugins=AtomicCheckpointIO(),
            use_distributed_sampler=False,  # `complete` and data/batches.py share out the images
            inference_mode=False,  # a search needs gradients in predict_step
        )
    except (MisconfigurationException, ModuleNotFoundError, TypeError) as error:
        raise ValueError(explain_devices(options, error)) from error
    if (processes := trainer.world_size) == 1:
        return trainer
    devices = f"trainer.devices={options.get('devices')}"
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise ValueError(
            f"{devices}: {processes} processes are not supported with -m. "
            "Start each run with its own command"
        )
    if train_batch_size is not None:
        if options.get("strategy") != DDP:
            raise ValueError(f"{devices}: several devices require trainer=ddp")
        rank_zero_info(
            f"{processes} processes: {processes * train_batch_size} images per iteration, lr not "
            "scaled; BatchNorm normalizes per process, moving statistics are those of the first "
            "process"
        )
    return trainer


def open_loggers(
    options: Mapping[str, Any] | None, tags: Sequence[str], run_dir: Path
) -> list[Logger]:
    """Instantiate the loggers of conf/logger without writing anything.

    Args:
        options: Each logger's `_target_` and arguments by name; those of a single logger of any
            class; or None.
        tags: Tags of the run in W&B.
        run_dir: Where loggers write that have an argument `save_dir` and do not set it.

    Raises:
        ModuleNotFoundError: If a logger's package is not installed.
        ValueError: If a class is no logger or refuses its arguments, if W&B runs online and is
            unreachable or has no API key, or if it does not allow the name of the project or a tag.
    """
    options = options or {}
    loggers: list[Logger] = []
    for name, node in ({"": options} if "_target_" in options else options).items():
        if name == "wandb":
            _check_wandb_names(node.get("project"), tags)
        extra = {"tags": list(tags)} if name == "wandb" else {}
        loggers.append(_open_logger(f"logger.{name}".rstrip("."), node, run_dir, extra))
        online = os.environ.get("WANDB_MODE", "online") == "online" and not node.get("offline")
        if isinstance(loggers[-1], WandbLogger) and online:
            _check_wandb()
    return loggers


def _open_logger(
    key: str, node: Mapping[str, Any], run_dir: Path, extra: Mapping[str, Any]
) -> Logger:
    target, arguments = node["_target_"], dict(node)
    if "save_dir" in inspect.signature(get_object(target)).parameters:
        arguments = {"save_dir": str(run_dir)} | arguments
    try:
        with unwrapped():
            logger = instantiate(arguments, **extra)
    except (ModuleNotFoundError, ValueError):
        raise
    except Exception as error:  # the loggers of other packages raise many types
        raise ValueError(f"{key}._target_={target}: cannot be opened ({error})") from error
    if not isinstance(logger, Logger):
        raise ValueError(f"{key}._target_={target}: expected a subclass of Lightning's Logger")
    return logger


def _check_wandb_names(project: str | None, tags: Sequence[str]) -> None:
    values: dict[str, Any] = {"logger.wandb.project": project, "tags": tuple(tags)}
    for (option, value), name in zip(values.items(), ("project", "run_tags"), strict=True):
        try:
            wandb.Settings(**{name: value})
        except (wandb.errors.Error, ValueError) as error:
            raise ValueError(f"{option}={show(value)}: W&B does not allow it ({error})") from error


@rank_zero_only
def _check_wandb() -> None:
    url = wandb.setup().settings.base_url
    try:
        urllib.request.urlopen(url, timeout=WANDB_TIMEOUT).close()
    except urllib.error.HTTPError:
        pass  # the server answered
    except OSError as error:
        raise ValueError(
            f"logger=wandb: {url} cannot be reached ({error}). {WANDB_OFFLINE}"
        ) from error
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise ValueError(f"logger=wandb: no API key ({error}). {WANDB_OFFLINE}") from error


def log_image(
    loggers: Iterable[FabricLogger], name: str, image: Image.Image, step: int | None = None
) -> None:
    """Log an image to the loggers that support images: W&B and TensorBoard."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [image], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pil_to_tensor(image), step)


def close_loggers(loggers: Iterable[Logger]) -> None:
    """Write what the loggers have not written yet, and close their files and threads.

    Lightning does so after each loop, but metrics that are logged afterwards open them again.  The
    W&B run is finished, so that the next run of a multirun starts a new one.
    """
    for logger in loggers:
        logger.finalize("success")
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


def complete(
    trainer: Trainer,
    writer: CompletionWriter,
    module: LightningModule,
    batch_size: int,
    shard: str | None = None,
) -> Summary | None:
    """Complete the images that have no record yet, and write the report once all have one.

    Each process completes its own batches (`share_batches`), and the first one writes the report.
    A batch has the same images for any number of processes, unless there are fewer batches than
    processes.

    Args:
        trainer: A Trainer (`make_trainer`) with `writer` among its callbacks.
        writer: Stores the completions.
        module: Completes a batch in `predict_step`.
        batch_size: Images per batch.
        shard: "3/16" restricts this call to the third of sixteen shares of the batches.

    Returns:
        The summary of the metrics. None if images of other shards are not completed yet, and in
        every process but the first.
    """
    part, parts = map(int, shard.split("/")) if shard is not None else (1, 1)
    processes = trainer.world_size
    share = (part - 1) * processes + trainer.global_rank
    own = share_batches(len(writer.names), batch_size, share, parts * processes)
    own = [batch for batch in own if not writer.completed.issuperset(batch)]
    if own or processes > 1:  # `predict` waits for all processes, even those without a batch
        module.allow_zero_length_dataloader_with_multiple_devices = True
        images = Subset(writer.images, list(itertools.chain(*own)))
        trainer.predict(module, make_dataloader(images, batch_size), return_predictions=False)
        trainer.strategy.barrier()
    if not trainer.is_global_zero or not writer.find_records():
        if shard is not None and trainer.is_global_zero:
            print(f"shard {shard} completed. Run the command without shard= to write the report")
        return None
    summary = write_report(writer.run_dir, writer.records(), writer.photos)
    for logger in trainer.loggers:
        logger.log_metrics({f"completion/{name}": mean for name, (mean, *_) in summary.items()})
        logger.save()
    with Image.open(writer.run_dir / "rows.png") as image:
        log_image(trainer.loggers, "completion/rows", image)
    return summary


def share_batches(count: int, batch_size: int, share: int, shares: int) -> list[range]:
    """Return the batches that one of several processes completes.

    Args:
        count: Number of images of all processes.
        batch_size: Largest number of images per batch. Batches are smaller if there would be fewer
            of them than shares.
        share: Number of the process, from 0.
        shares: Number of processes.

    Returns:
        Positions of consecutive images, for each batch.
    """
    size = max(1, min(batch_size, math.ceil(count / shares)))
    batches = [range(i, min(i + size, count)) for i in range(0, count, size)]
    return batches[share::shares]

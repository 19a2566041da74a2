"""Run folders: runs/<task>/<date_time>/, each with the configuration that made it."""

import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torchvision.transforms.functional import pil_to_tensor

FALSE_ALARMS = (  # of Lightning 2.6
    ".*in eval mode at the start of training.*",  # the averaged generator is, on purpose
    ".*does not have many workers.*",  # batches are read from a memory map
    "Checkpoint directory .* exists and is not empty.*",  # config.yaml and samples are there
    ".*treespec, LeafSpec.*",  # its own use of a deprecated torch call
)


# what may change when a completion run is gone on with: no result depends on it, but on precision
FREE = {"limit", "batch_size", "cache_dir", "output", "trainer", "logger"}


def start_run(cfg: DictConfig, task: str) -> Path:
    """Make the run's folder, write config.yaml there and set cfg.output to it.

    cfg.output null means runs/<task>/<date_time>, with a number behind it when that is taken.
    Raises ValueError for a folder that cannot be written.
    """
    for false_alarm in FALSE_ALARMS:
        warnings.filterwarnings("ignore", false_alarm)
    try:
        if cfg.output is None:
            base = Path("runs") / task / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            folder, number = base, 1
            while folder.exists():
                folder, number = base.with_name(f"{base.name}_{number}"), number + 1
        else:
            folder = Path(cfg.output)
        folder.mkdir(parents=True, exist_ok=True)
        cfg.output = str(folder)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    except OSError as error:
        raise ValueError(f"output={folder}: cannot be written ({error.strerror})") from error
    return folder


def check_same(cfg: DictConfig) -> None:
    """Raise ValueError if cfg.output holds a run that other settings or weights began."""
    if cfg.output is None or not (Path(cfg.output) / "metrics.csv").is_file():
        return  # nothing was completed there
    begun = Path(cfg.output) / "config.yaml"
    old = _flat(OmegaConf.to_container(OmegaConf.load(begun)))
    new = _flat(OmegaConf.to_container(cfg, resolve=True))
    for key in sorted(old.keys() | new.keys()):
        free = key.split(".")[0] in FREE and key != "trainer.precision"
        if not free and old.get(key) != new.get(key):
            raise ValueError(
                f"output={cfg.output} was begun with {key}={old.get(key)}, not {new.get(key)}: "
                "use another output, or the same settings to go on with it"
            )
    if Path(cfg.ckpt).stat().st_mtime > begun.stat().st_mtime:
        raise ValueError(f"ckpt={cfg.ckpt} is newer than output={cfg.output}: use another output")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"mask": {"scale": 1}} -> {"mask.scale": 1}"""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, part in tree.items() for k, v in _flat(part, f"{prefix}{key}.").items()}


def log_picture(
    loggers: Iterable[Logger], name: str, picture: Image.Image, step: int | None = None
) -> None:
    """Show a picture in those of the loggers that can: W&B and TensorBoard."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.log_image(name, [picture], step=step)
        elif isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, pil_to_tensor(picture), step)


def finish(loggers: Iterable[Logger]) -> None:
    """End the W&B run, so that the next one of this process (a multirun) does not go on in it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()

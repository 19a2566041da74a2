"""Run folders: runs/<task>/<date_time>/, each with the configuration that made it, and what has to
fit for a run to be continued."""

import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from lightning_fabric.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import file_of
from dcgan_inpaint.quality.completions import load_weights

FALSE_ALARMS = (  # of Lightning 2.6
    ".*in eval mode at the start of training.*",  # the averaged generator is, on purpose
    ".*does not have many workers.*",  # batches are read from a memory map
    "Checkpoint directory .* exists and is not empty.*",  # config.yaml and samples are there
    ".*treespec, LeafSpec.*",  # its own use of a deprecated torch call
)

# what may change when a completion run is continued: no result depends on it, but on precision
FREE = {"limit", "batch_size", "cache_dir", "output", "trainer", "logger"}
# what Lightning reads of a last.ckpt to continue a training
TRAINING = {"state_dict", "optimizer_states", "lr_schedulers", "loops", "epoch", "global_step"}


def name_folder(cfg: DictConfig, task: str) -> Path:
    """The run's folder, to which cfg.output is set; nothing is checked or made yet.

    cfg.output null means runs/<task>/<date_time>, with a number behind it when that is taken.
    """
    if cfg.output is None:
        base = Path("runs") / task / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
        folder, number = base, 1
        while folder.exists():
            folder, number = base.with_name(f"{base.name}_{number}"), number + 1
        cfg.output = str(folder)
    return Path(str(cfg.output))


def start_run(cfg: DictConfig, task: str, loggers: Iterable[Logger] = ()) -> Path:
    """Make the run's folder (`name_folder`), write config.yaml there and tell the loggers of it.

    Raises ValueError for a folder that cannot be written.
    """
    for false_alarm in FALSE_ALARMS:
        warnings.filterwarnings("ignore", false_alarm)
    folder = name_folder(cfg, task)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    except OSError as error:
        raise ValueError(f"output={folder}: cannot be written ({error.strerror})") from error
    for logger in loggers:
        logger.log_hyperparams(cast(dict, OmegaConf.to_container(cfg, resolve=True)))
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
                "use another output, or the same settings to continue it"
            )
    if file_of(cfg.ckpt).stat().st_mtime > begun.stat().st_mtime:
        raise ValueError(f"ckpt={cfg.ckpt} is newer than output={cfg.output}: use another output")


def check_resume(path: str, model: Model) -> None:
    """Raise ValueError (FileNotFoundError) if `path` is no last.ckpt of a model such as this."""
    saved = load_weights("resume", path, "a last.ckpt of train.py")
    missing = TRAINING - saved.keys()
    if missing:
        raise ValueError(f"resume={path}: no last.ckpt of train.py: it has no {min(missing)}")
    kind = saved.get("kind", "DCGAN")  # before there were others, it was not said
    if kind != model.kind:
        raise ValueError(f"resume={path} holds a {kind}, model= is a {model.kind}")
    shapes, theirs = (
        {name: getattr(value, "shape", None) for name, value in dict(state).items()}
        for state in (model.state_dict(), saved["state_dict"])
    )
    for name in sorted(shapes.keys() ^ theirs.keys()) or shapes:
        if shapes.get(name) != theirs.get(name):
            raise ValueError(
                f"resume={path}: {name} does not fit: use the model= and data= that it began with"
            )


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
    """End the W&B run, so that the next one of this process (a multirun) does not continue it."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()

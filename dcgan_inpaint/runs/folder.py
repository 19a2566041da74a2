"""Run folders: runs/<task>/<date_time>/, each with the configuration that made it, and what has to
fit for a run to be continued."""

import hashlib
import json
import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from filelock import BaseFileLock, FileLock, Timeout
from lightning_fabric.loggers import Logger
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torchvision.transforms.functional import pil_to_tensor
from yaml import YAMLError

from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import file_of
from dcgan_inpaint.quality.completions import load_weights
from dcgan_inpaint.runs.records import begun_with
from dcgan_inpaint.runs.saving import remove_parts, whole

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
_LOCKS: list[BaseFileLock] = []  # of the folders that this process writes to


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
    _begin(cfg, folder)
    for logger in loggers:
        logger.log_hyperparams(cast(dict, OmegaConf.to_container(cfg, resolve=True)))
    return folder


@rank_zero_only  # of the processes of one training
def _begin(cfg: DictConfig, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _be_alone(folder)
        remove_parts(folder)
        with whole(folder / "config.yaml", lasting=True) as file:
            file.write(OmegaConf.to_yaml(cfg, resolve=True).encode())
    except OSError as error:
        raise ValueError(f"output={folder}: cannot be written ({error.strerror})") from error


def _be_alone(folder: Path) -> None:
    """Raise ValueError if another process is at work in the folder; keep others out from now on."""
    lock = FileLock(folder / ".lock", is_singleton=True)  # this process may come again
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"output={folder}: another run is at work there") from error
    _LOCKS.append(lock)  # the system opens it when the process ends, however it does


def check_same(cfg: DictConfig) -> str:
    """A word for all that the results of a completion depend on: its settings and its weights.

    Raises ValueError if cfg.output holds a run that others began.  Its records say so themselves;
    config.yaml, which may be damaged or deleted, only helps to say which setting it is.
    """
    new = _flat(OmegaConf.to_container(cfg, resolve=True))
    kept = {key: value for key, value in new.items() if not _is_free(key)}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    with file_of(cfg.ckpt).open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    settings = digest.hexdigest()[:16]
    begun = begun_with(Path(str(cfg.output)))
    # before there were records, there was a table
    if begun == settings or not (begun or (Path(str(cfg.output)) / "metrics.csv").is_file()):
        return settings
    old = _flat(read_config(Path(str(cfg.output))) or new)
    for key in sorted(old.keys() | new.keys()):
        if not _is_free(key) and old.get(key) != new.get(key):
            raise ValueError(
                f"output={cfg.output} was begun with {key}={old.get(key)}, not {new.get(key)}: "
                "use another output, or the same settings to continue it"
            )
    if begun:
        raise ValueError(
            f"output={cfg.output} was begun with other weights than are now in ckpt={cfg.ckpt}: "
            "use another output"
        )
    return settings


def _is_free(key: str) -> bool:
    return key.split(".")[0] in FREE and key != "trainer.precision"


def read_config(folder: Path) -> dict[str, Any] | None:
    """The config.yaml of a run's folder; None if it is not there, or damaged."""
    try:
        cfg = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return None
    return cast(dict[str, Any], cfg) if isinstance(cfg, dict) else None


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

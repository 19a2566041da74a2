"""Run folders: runs/<task>/<date_time>/, each with the configuration that made it, and what has to
fit for a run to be continued."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from filelock import BaseFileLock, FileLock, Timeout
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from yaml import YAMLError

from dcgan_inpaint.files import atomic_write, remove_parts
from dcgan_inpaint.models.checkpoint import file_of
from dcgan_inpaint.runs.records import begun_with

FALSE_ALARMS = (  # of Lightning 2.6
    ".*in eval mode at the start of training.*",  # the averaged generator is, on purpose
    ".*does not have many workers.*",  # batches are read from a memory map
    "Checkpoint directory .* exists and is not empty.*",  # config.yaml and samples are there
    ".*treespec, LeafSpec.*",  # its own use of a deprecated torch call
)

# what may change when a completion run is continued: no result depends on it, but on precision
FREE = {"shard", "limit", "batch_size", "cache_dir", "output", "trainer", "logger", "name", "tags"}
MARKS = {  # by task, what its runs leave, and how to know it
    "train": ("a training", ("last.ckpt", "weights.safetensors")),
    "inpaint": ("a completion", ("records", "metrics.csv")),
    "sample": ("samples", ("samples.png",)),
}
CHOSEN = "DCGAN_INPAINT_OUTPUT"  # the folder, for the processes that this one starts
LITTLE = 5  # seconds, in which other shards see that nobody has the folder
_LOCKS: list[BaseFileLock] = []  # of the folders that this process writes to


def name_folder(cfg: DictConfig, task: str) -> Path:
    """The run's folder, to which cfg.output is set; nothing is made yet.

    cfg.output null means runs/<task>/<date_time>, with cfg.name behind it if there is one, and a
    number when that is taken; of several processes, what the one that started the others chose.
    Raises ValueError for a folder that holds what this run would overwrite.
    """
    if cfg.output is None and rank_zero_only.rank:  # type: ignore[attr-defined]
        if CHOSEN not in os.environ:  # which Lightning hands to those that it starts
            raise ValueError("output=null: give one, for processes that are started apart")
        cfg.output = os.environ[CHOSEN]
    if cfg.output is None:
        name = [str(cfg.name)] if cfg.get("name") else []  # sample.py has none
        parts = [datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), *name]
        base = Path("runs") / task / "_".join(parts)
        folder, number = base, 1
        while folder.exists():
            folder, number = base.with_name(f"{base.name}_{number}"), number + 1
        cfg.output = os.environ[CHOSEN] = str(folder)
    folder = Path(str(cfg.output))
    for its_task, (what, marks) in MARKS.items():
        if any((folder / mark).exists() for mark in marks) and not _continues(cfg, task, its_task):
            raise ValueError(f"output={folder} holds {what}: use another output")
    return folder


def _continues(cfg: DictConfig, task: str, begun: str) -> bool:
    """Whether a run of `task` goes on with, or makes again, what one of `begun` left."""
    if task == begun == "train":
        return Path(str(cfg.resume)).resolve().parent == Path(str(cfg.output)).resolve()
    return task == begun


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


@rank_zero_only  # of the processes of one run
def _begin(cfg: DictConfig, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shard = cfg.get("shard")
        _be_alone(folder, shard and str(shard).replace("/", "-"))
        if not shard:
            remove_parts(folder)
        with atomic_write(folder / "config.yaml", durable=True) as file:
            file.write(OmegaConf.to_yaml(cfg, resolve=True).encode())
    except OSError as error:
        raise ValueError(f"output={folder}: cannot be written ({error.strerror})") from error


def _be_alone(folder: Path, shard: str | None) -> None:
    """Raise ValueError if another process is at work in the folder; keep others out from now on.

    Shards work side by side, each in its own name.
    """
    names = [f".lock-{shard}"] if shard else [path.name for path in folder.glob(".lock-*")]
    for name in [".lock", *names]:
        lock = FileLock(folder / name, is_singleton=True)  # this process may come again
        try:
            lock.acquire(timeout=LITTLE if shard else 0)
        except Timeout as error:
            raise ValueError(f"output={folder}: another run is at work there") from error
        if shard and name == ".lock":
            lock.release()  # nobody has all of it
        else:
            _LOCKS.append(lock)  # the system opens it when the process ends, however it does


def check_same(cfg: DictConfig) -> str:
    """A word for all that the results of a completion depend on: its settings, its weights and its
    mask image; of photos the records say themselves what is known of each.

    Raises ValueError if cfg.output holds a run that others began.  Its records say so themselves;
    config.yaml, which may be damaged or deleted, only helps to say which setting it is.
    """
    new = flat(OmegaConf.to_container(cfg, resolve=True))
    kept = {key: value for key, value in new.items() if not _is_free(key)}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    held = {"weights than are": ("ckpt", file_of(cfg.ckpt))}
    if cfg.images is None and "path" in cfg.mask:
        held["image than is"] = "mask.path", Path(cfg.mask.path).expanduser()
    for _, path in held.values():
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    settings = digest.hexdigest()[:16]
    begun = begun_with(Path(str(cfg.output)))
    # before there were records, there was a table
    if begun == settings or not (begun or (Path(str(cfg.output)) / "metrics.csv").is_file()):
        return settings
    old = flat(read_config(Path(str(cfg.output))) or new)
    for key in sorted(old.keys() | new.keys()):
        if not _is_free(key) and old.get(key) != new.get(key):
            raise ValueError(
                f"output={cfg.output} was begun with {key}={old.get(key)}, not {new.get(key)}: "
                "use another output, or the same settings to continue it"
            )
    if begun:
        now = " or another ".join(f"{what} now in {key}={p}" for what, (key, p) in held.items())
        raise ValueError(f"output={cfg.output} was begun with other {now}: use another output")
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


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"mask": {"scale": 1}} -> {"mask.scale": 1}"""
    if not isinstance(tree, dict):
        return {prefix[:-1]: tree}
    return {k: v for key, part in tree.items() for k, v in flat(part, f"{prefix}{key}.").items()}

"""Run directories: runs/<task>/<date_time>/, each with the config.yaml of its run."""

import os
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout
from omegaconf import OmegaConf
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only

from dcgan_inpaint.files import atomic_write, remove_parts

IGNORED_WARNINGS = (  # of Lightning 2.6
    ".*in eval mode at the start of training.*",  # as intended for the averaged generator
    ".*does not have many workers.*",  # batches are read from a memory map
    "Checkpoint directory .* exists and is not empty.*",  # config.yaml and samples are there
    "Total length of .* across ranks is zero.*",  # some processes may have no image to complete
    ".*treespec, LeafSpec.*",  # Lightning's own use of a deprecated torch function
)
RESULTS = {  # by task: the files that show that a run directory has results of it
    "train": ("a training", ("last.ckpt", "weights.safetensors")),
    "inpaint": ("a completion", ("records", "metrics.csv")),
    "sample": ("samples", ("samples.png",)),
}
OUTPUT_VARIABLE = "DCGAN_INPAINT_OUTPUT"  # passes the directory to the processes that DDP starts
SHARD_TIMEOUT = 5  # seconds: other shards hold the lock of the directory for milliseconds
_LOCKS: list[BaseFileLock] = []  # held until this process ends


def choose_run_dir(
    task: str, output: str | None, name: str | None = None, resume: str | None = None
) -> Path:
    """Return the directory of a new run without creating it.

    `output` None is runs/<task>/<date_time>[_<name>], with a number if that exists; the processes
    of DDP take the directory of the first.  Raises ValueError for a directory that holds results
    which this run would overwrite: it may repeat or continue a task of its own kind, but a training
    only that of the checkpoint `resume`.
    """
    if output is None and rank_zero_only.rank:  # type: ignore[attr-defined]
        if OUTPUT_VARIABLE not in os.environ:  # which Lightning passes to processes it starts
            raise ValueError("output=null: processes that are started separately need output=")
        output = os.environ[OUTPUT_VARIABLE]
    if output is None:
        parts = [datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), *([name] if name else [])]
        base = Path("runs") / task / "_".join(parts)
        run_dir, number = base, 1
        while run_dir.exists():
            run_dir, number = base.with_name(f"{base.name}_{number}"), number + 1
        os.environ[OUTPUT_VARIABLE] = str(run_dir)
        return run_dir
    run_dir = Path(output)
    resumed = resume is not None and Path(resume).resolve().parent == run_dir.resolve()
    for other, (what, files) in RESULTS.items():
        continued = task == other and (task != "train" or resumed)
        if not continued and any((run_dir / file).exists() for file in files):
            raise ValueError(f"output={run_dir}: contains {what}. Use another output")
    return run_dir


def start_run(
    run_dir: Path,
    settings: Mapping[str, Any],
    loggers: Iterable[Logger] = (),
    shard: str | None = None,
) -> None:
    """Create and lock the run directory, write the settings to config.yaml and to the loggers.

    Raises ValueError for a directory that cannot be written or that another run is using.
    """
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    _create(run_dir, settings, shard)
    for logger in loggers:
        logger.log_hyperparams(dict(settings))


@rank_zero_only
def _create(run_dir: Path, settings: Mapping[str, Any], shard: str | None) -> None:
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _lock(run_dir, shard and shard.replace("/", "-"))
        if not shard:
            remove_parts(run_dir)
        with atomic_write(run_dir / "config.yaml", durable=True) as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(dict(settings))).encode())
    except OSError as error:
        raise ValueError(f"output={run_dir}: cannot be written ({error.strerror})") from error


def _lock(run_dir: Path, shard: str | None) -> None:
    """Lock the directory until this process ends; shards lock only their own name.

    Raises ValueError if another process holds a lock.
    """
    names = [f".lock-{shard}"] if shard else [path.name for path in run_dir.glob(".lock-*")]
    for name in [".lock", *names]:
        lock = FileLock(run_dir / name, is_singleton=True)  # this process may lock it again
        try:
            lock.acquire(timeout=SHARD_TIMEOUT if shard else 0)
        except Timeout as error:
            raise ValueError(f"output={run_dir}: another run is using it") from error
        if shard and name == ".lock":
            lock.release()  # only proves that no run has locked the whole directory
        else:
            _LOCKS.append(lock)  # the system releases it when the process ends

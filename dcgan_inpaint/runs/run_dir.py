"""Run directories: runs/<task>/<date_time>/, each with the config.yaml of its run."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
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


@contextmanager
def choose_run_dir(
    task: str, output: str | None, name: str | None = None, resume: str | None = None
) -> Iterator[Path]:
    """Yield the directory of a new run, to prepare the run in the block.

    `output` None is runs/<task>/<date_time>[_<name>], with a number if that exists; the processes
    of DDP take the directory of the first.  It is created at once, so that no other run takes it,
    and removed if the block fails before `start_run`.  A directory that the user names is not
    created.

    Raises ValueError for a directory that holds results which this run would overwrite: it may
    repeat or continue a task of its own kind, but a training only that of the checkpoint `resume`.
    """
    if output is None and rank_zero_only.rank:  # type: ignore[attr-defined]
        if OUTPUT_VARIABLE not in os.environ:  # which Lightning passes to processes it starts
            raise ValueError("output=null: processes that are started separately need output=")
        output = os.environ[OUTPUT_VARIABLE]
    if output is not None:
        run_dir = Path(output)
        _check_results(task, run_dir, resume)
        yield run_dir
        return
    try:
        run_dir = _create_new(task, name)
    except OSError as error:
        raise ValueError(
            f"output=null: runs/{task} cannot be written ({error.strerror})"
        ) from error
    os.environ[OUTPUT_VARIABLE] = str(run_dir)
    try:
        yield run_dir
    except BaseException:
        with suppress(OSError):  # a directory that is not empty
            for folder in (run_dir, run_dir.parent, run_dir.parent.parent):
                folder.rmdir()
        raise


def _create_new(task: str, name: str | None) -> Path:
    """Create and return the directory of a run that starts now."""
    parts = [datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), *([name] if name else [])]
    base = Path("runs") / task / "_".join(parts)
    run_dir, number = base, 1
    while True:
        try:
            run_dir.mkdir(parents=True)
            return run_dir
        except FileExistsError:  # of another run, perhaps of the same second
            if not run_dir.is_dir():
                raise
            run_dir, number = base.with_name(f"{base.name}_{number}"), number + 1
        except FileNotFoundError:  # another run has just removed an empty parent
            continue


def _check_results(task: str, run_dir: Path, resume: str | None) -> None:
    """Raise ValueError if a run would overwrite the results in a directory."""
    resumed = resume is not None and Path(resume).resolve().parent == run_dir.resolve()
    for other, (what, files) in RESULTS.items():
        continued = task == other and (task != "train" or resumed)
        if not continued and any((run_dir / file).exists() for file in files):
            raise ValueError(f"output={run_dir}: contains {what}. Use another output")


def start_run(
    run_dir: Path,
    settings: Mapping[str, Any],
    loggers: Iterable[Logger] = (),
    shard: str | None = None,
) -> None:
    """Create and lock the run directory, write the settings to config.yaml and to the loggers.

    Raises ValueError for a directory that cannot be written or that another run is using, and for a
    logger that does not accept the settings, for example because its server is unreachable.
    """
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)
    _create(run_dir, settings, shard)
    for logger in loggers:
        try:
            logger.log_hyperparams(dict(settings))
        except Exception as error:  # the loggers of other packages raise many types
            raise ValueError(f"logger: {type(logger).__name__} cannot be used ({error})") from error


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

"""How files are written so that a fault at any moment leaves whole ones."""

import csv
import io
import os
import pickle
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from PIL import Image
from pytorch_lightning.plugins.io import TorchCheckpointIO
from torch import Tensor

from dcgan_inpaint.checksums import check_archive

PART = ".part"  # the end of the name of a file that is not yet whole


@contextmanager
def atomic_write(path: Path, lasting: bool = False) -> Iterator[BinaryIO]:
    """A file to write that takes the place of `path` when it is closed; after an error nothing has
    changed.

    `lasting`: even when the power fails at once.  Raises OSError when the disk is full or gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(PART)
    try:
        with part.open("wb") as file:
            yield file
            if lasting:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    """Rows of a CSV file, whole or not at all."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        csv.writer(text).writerows(rows)
        text.detach()


def save_image(path: Path, image: Image.Image) -> None:
    """A PNG file, whole or not at all."""
    with atomic_write(path) as file:
        image.save(file, "PNG")


def remove_parts(folder: Path) -> None:
    """Remove what killed runs left below a run's folder of files that they were writing."""
    for part in folder.rglob(f"*{PART}"):
        part.unlink(missing_ok=True)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is whole on the disk; the one
    that was there stays, as <name>-1.ckpt.

    Lightning itself writes to the system's temporary folder: from another file system that is a
    copy over the only checkpoint, which a kill or a full disk cuts off.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises OSError when the disk is full or gone, and leaves what was there."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(PART)
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, RuntimeError):  # what torch makes of a full disk
                raise OSError(f"{path}: cannot be written ({error})") from error
            raise
        if not _is_whole(part):  # what the disk gives back
            raise OSError(f"{path}: the disk does not give back what was written")
        if _is_whole(path):  # if not, the one before it is what can be continued
            before = path.with_name(f"{path.stem}-1{path.suffix}")
            before.unlink(missing_ok=True)
            os.link(path, before)  # so that under its name there is one at every moment
        os.replace(part, path)


def _is_whole(archive: Path) -> bool:
    """Whether what torch saved is there and fits its checksums."""
    try:
        check_archive(archive)
    except (OSError, ValueError):
        return False
    return True


def load_weights(option: str, path: str | Path, source: str) -> dict[str, Tensor]:
    """Load a dictionary of tensors from a PyTorch file without running code stored in it.

    Args:
        option: name of the option that gave `path`, for error messages.
        path: local file written by `torch.save`.
        source: description of the expected file, for error messages.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is truncated, corrupt or not a dictionary.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{option}={path}: no such file. Use {source}")
    try:
        if zipfile.is_zipfile(path):  # the format before PyTorch 1.6 is no archive
            check_archive(Path(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{option}={path}: truncated or not a PyTorch weights file. Use {source}"
        ) from error
    if not isinstance(state, dict):
        raise ValueError(f"{option}={path}: expected a dictionary of tensors. Use {source}")
    return state

"""Reading and writing of files.

Writes are atomic: an interruption leaves either the previous file or the complete new one.  This
module does not import torch, so that a missing file is reported at once.
"""

import csv
import io
import os
import pickle
import secrets
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

SHIPPED = {path.stem: path for path in (Path(__file__).parent / "checkpoints").glob("*.s*")}
LAST_CKPT = "a last.ckpt of train.py"
Z_FILE = "a z.npy that inpaint.py wrote with the same GAN"
PNG_LEVEL = 2  # of zlib; files are 2% larger than with Pillow's default of 6, and 2.4 times faster
PART = ".part"  # suffix of a file that is being written


@contextmanager
def atomic_write(path: Path, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` when the block ends without an error.

    After an error `path` is unchanged and the temporary file is removed. Missing parent
    directories are created. Several processes may write the same file: the last one replaces it.

    Args:
        path: The file to write.
        durable: Whether the file must survive a power failure right after the block.

    Raises:
        OSError: If the disk is full or missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{secrets.token_hex(4)}{PART}")  # each process writes its own
    try:
        with part.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_csv(path: Path, rows: Iterable[Sequence]) -> None:
    """Write the rows of a CSV file atomically."""
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        csv.writer(text).writerows(rows)
        text.detach()


def save_image(path: Path, image: Image.Image) -> None:
    """Write a PNG file atomically."""
    with atomic_write(path) as file:
        image.save(file, "PNG", compress_level=PNG_LEVEL)


def shorten_name(name: str) -> str:
    """Shorten a name to at most 200 bytes of valid UTF-8."""
    text = os.fsencode(name).decode(errors="replace")
    return text.encode()[:200].decode(errors="ignore")


def remove_parts(folder: Path) -> None:
    """Remove the unfinished files that interrupted runs left in a run directory."""
    for part in folder.rglob(f"*{PART}"):
        part.unlink(missing_ok=True)


def check_file(option: str, path: str | Path, source: str) -> Path:
    """Return the path of a file; raise FileNotFoundError if there is none.

    `source` describes the expected file, for the error message.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{option}={path}: no such file. Use {source}")
    return Path(path)


def find_checkpoint(path: str | Path, option: str = "ckpt") -> Path:
    """Return the file of a checkpoint that is given by its path or by its name in SHIPPED.

    Raises FileNotFoundError if there is none.
    """
    if shipped := SHIPPED.get(str(path)):
        return shipped
    return check_file(option, path, f"a file or {', '.join(SHIPPED)}")


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """Open a safetensors file for PyTorch; the library itself reads only paths in UTF-8."""
    from safetensors import safe_open  # here, because checking a configuration does not need it

    with path.open("rb") as file:
        try:
            name = str(path)
            name.encode()
        except UnicodeEncodeError:
            name = f"/dev/fd/{file.fileno()}"
        with safe_open(name, "pt") as stored:
            yield stored


def load_weights(option: str, path: str | Path, source: str) -> dict[str, "Tensor"]:
    """Load a dictionary of tensors from a PyTorch file without running code stored in it.

    Args:
        option: Name of the option that gave `path`, for error messages.
        path: Local file written by `torch.save`.
        source: Description of the expected file, for error messages.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is truncated, corrupt or not a dictionary.
    """
    import torch

    from dcgan_inpaint.checksums import check_archive

    check_file(option, path, source)
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

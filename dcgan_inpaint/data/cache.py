"""Decode once: a split as one uint8 array on disk, memory-mapped ever after.

Layout: <cache_dir>/<key>/images.bin, (N, C, S, S) uint8, beside names.json and checksums.json.  A
cache is built in a temporary folder and renamed when whole, so a killed build leaves nothing that
looks finished.
"""

import functools
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from dcgan_inpaint.data.decoding import UnreadableImage

CHUNK = 256  # images decoded between two writes, and of one checksum
BUILDING = ".building"  # in the name of a folder that is not yet a cache
Opened = tuple[np.ndarray, list[str]]  # uint8 (N, C, S, S), and names


@runtime_checkable
class Source(Protocol):
    """Where images come from; one small class per kind."""

    image_size: int
    channels: int
    crop: float

    def settings(self) -> dict: ...
    def items(self, split: str) -> list[str]: ...
    def decode(self, items: list[str]) -> list: ...


def cache_key(source: Source, items: list[str]) -> str:
    """Names the cache of these items; sizes and times make an edited file a new one."""
    settings = source.settings()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    root = Path(settings.get("root", ""))
    for item in items:
        digest.update(os.fsencode(item))
        path = root / item
        if "root" in settings and path.is_file():
            stat = path.stat()
            digest.update(f" {stat.st_size} {stat.st_mtime_ns}".encode())
        digest.update(b"\n")
    kind = settings.get("source", type(source).__name__)  # one's own may not say it
    return f"{kind}{source.image_size}_{digest.hexdigest()[:16]}"


def load_split(source: Source, split: str, cache_dir: str) -> Opened:
    """The images of a split, uint8 (N, C, S, S) memory-mapped, and their names.

    Built with a progress bar on first use, by one process at a time, and again when it is damaged.
    Unreadable images are named in a warning and left out.  Raises ValueError for an unknown or
    empty split, when more than 1% cannot be read, when the cache cannot be written and, before any
    is decoded, when the disk has no room for them all.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split={split!r}: choose train, val or test")
    items = source.items(split)
    if not items:
        where = source.settings().get("root", "the source")
        raise ValueError(f"no images in the {split} split of {where}")
    folder = Path(cache_dir).expanduser() / cache_key(source, items)
    shape = (source.channels, source.image_size, source.image_size)
    opened = _open(folder, shape)
    if opened is not None:
        return opened
    try:
        with _alone(folder):
            if (opened := _open(folder, shape)) is None:  # nobody has built it meanwhile
                _remove_unfinished(folder)
                _check_room(folder.parent, split, len(items), math.prod(shape))
                _build(source, split, items, folder)
                opened = _open(folder, shape)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"cache_dir={cache_dir}: cannot be written ({why})") from error
    if opened is None:
        raise ValueError(f"cache_dir={cache_dir}: the disk does not give back what was written")
    return opened


def _open(folder: Path, shape: tuple[int, int, int]) -> Opened | None:
    """What a cache holds, images (C, S, S); None if that is not what was written, or nothing."""
    file = folder / "images.bin"
    if not file.is_file() or not file.stat().st_size:
        return None
    images = np.memmap(file, np.uint8, mode="r")
    names, written = _read_json(folder / "names.json"), _read_json(folder / "checksums.json")
    if not isinstance(names, list) or len(images) != len(names) * math.prod(shape):
        return None
    stat = file.stat()
    size = CHUNK * math.prod(shape)
    found = _checksums(names, _of_chunks(file, size, stat.st_ino, stat.st_mtime_ns))
    if written is None and not (folder / "checksums.json").exists():  # built by an earlier version
        (folder / "checksums.json").write_text(json.dumps(found))
    elif written != found:
        return None
    return images.reshape(len(names), *shape), names


def _read_json(path: Path) -> Any:
    """None of a file that is not there, or is no JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _checksums(names: list[str], chunks: list[int]) -> dict[str, Any]:
    return {"names": zlib.crc32(json.dumps(names).encode()), "chunks": chunks}


@functools.lru_cache(maxsize=16)  # a training opens its split several times
def _of_chunks(file: Path, size: int, inode: int, modified: int) -> list[int]:
    """Checksums of the file by chunks of `size` bytes; `inode` and `modified` say which it was."""
    levels = np.memmap(file, np.uint8, mode="r")
    with ThreadPoolExecutor() as pool:  # zlib lets others run meanwhile
        chunks = (levels[start : start + size] for start in range(0, len(levels), size))
        return list(pool.map(zlib.crc32, chunks))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process builds this cache meanwhile; the lock of a killed one is open."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_of(folder))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: another run is decoding it, which is waited for", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.lock")


def _remove_unfinished(folder: Path) -> None:
    """Remove what killed builders left, of this cache, which is ours, and of others."""
    for left in folder.parent.glob(f".*{BUILDING}*"):
        other = folder.with_name(left.name[1:].rpartition(BUILDING)[0])
        if other == folder:
            shutil.rmtree(left)
            continue
        try:
            with FileLock(_lock_of(other)).acquire(timeout=0):
                shutil.rmtree(left)
        except Timeout:
            pass  # its builder is at work


def _check_room(cache_dir: Path, split: str, count: int, size: int) -> None:
    """Raise ValueError where so many images of so many bytes are more than the disk has left."""
    free = shutil.disk_usage(cache_dir).free
    if count * size > free:
        raise ValueError(
            f"cache_dir={cache_dir}: the {count} images of the {split} split are "
            f"{count * size / 1e9:.2f} GB decoded, and {free / 1e9:.2f} GB are free there: use "
            "another cache_dir= or a smaller data.image_size="
        )


def _bytes(name: str, image: Any, shape: tuple[int, int, int]) -> bytes:
    """Raises ValueError for what is no image of that shape, of a source of somebody's own."""
    found = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if found != (shape, np.uint8):
        raise ValueError(f"{name}: {found[0]} of {found[1]}, where {shape} of uint8 is wanted")
    return image.tobytes()


def too_many_unreadable(bad: int, count: int, split: str) -> str | None:
    """What is said against a split of which so many cannot be read, if it is more than 1%."""
    if bad <= 0.01 * count:
        return None
    return (
        f"{bad} of {count} images in the {split} split cannot be read (named above); more than "
        "1% is no accident: mend or remove them"
    )


def _build(source: Source, split: str, items: list[str], folder: Path) -> None:
    shape = (source.channels, source.image_size, source.image_size)
    if folder.exists():
        print(f"{folder}: damaged; it is decoded again", file=sys.stderr)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}{BUILDING}", dir=folder.parent))
    try:
        names: list[str] = []
        chunks: list[int] = []
        bad = 0
        with (
            (building / "images.bin").open("wb") as file,
            tqdm(total=len(items), desc=f"decoding {split}", unit="image") as progress,
        ):
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                for name, image in zip(chunk, source.decode(chunk), strict=True):
                    if isinstance(image, UnreadableImage):
                        warnings.warn(f"skipped {image}", stacklevel=2)
                        bad += 1
                        continue
                    if len(names) % CHUNK == 0:
                        chunks.append(0)
                    chunks[-1] = zlib.crc32(levels := _bytes(name, image, shape), chunks[-1])
                    file.write(levels)
                    names.append(name)
                progress.update(len(chunk))
        if refusal := too_many_unreadable(bad, len(items), split):
            raise ValueError(refusal)
        if bad:
            warnings.warn(f"{bad} of {len(items)} {split} images skipped", stacklevel=2)
        (building / "names.json").write_text(json.dumps(names))
        (building / "checksums.json").write_text(json.dumps(_checksums(names, chunks)))
        if folder.exists():  # who reads it goes on with what is open
            shutil.rmtree(folder)
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)

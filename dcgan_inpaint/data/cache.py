"""Cache of decoded images: each split is decoded once and memory-mapped afterwards.

A cache is the directory <cache_dir>/<key> with images.bin, uint8 (N, C, S, S), names.json and
checksums.json.  It is built in a temporary directory and renamed when it is complete, so a killed
build never leaves a partial cache.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from stat import S_ISDIR
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from torch import Tensor
from tqdm import tqdm

from dcgan_inpaint.data.decoding import UnreadableImage
from dcgan_inpaint.data.directories import files_below, hash_files
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.files import atomic_write

CHUNK_IMAGES = 256  # decoded at a time, and covered by one checksum: 3 MB at 64 px
BUILDING = ".building"  # in the names of directories that are not complete
DEFAULT_CACHE_DIR = "~/.cache/dcgan_inpaint"  # as in conf/
CachedSplit = tuple[np.ndarray, list[str]]  # uint8 (N, C, S, S), and names


@runtime_checkable
class Source(Protocol):
    """A source of images.

    Attributes:
        image_size: Side S of the square images in px.
        channels: C, 3 for color or 1 for gray.
        crop: Side of the central square of a photo divided by its short side.
        valid_box: Optional; (left, top, right, bottom) in px of the pixels that are known in every
            image, or None.  Training leaves out the others (`valid_mask`).
        file_of: Optional; a method that returns the path of the file that holds an image of
            `items`, or None if settings() covers the files.
    """

    image_size: int
    channels: int
    crop: float

    def settings(self) -> dict:
        """Return all settings that affect the pixels, as plain values."""

    def items(self, split: str) -> list[str]:
        """Return the names of the images in "train", "val" or "test"."""

    def decode(self, items: list[str]) -> list:
        """Return uint8 (C, S, S), or an `UnreadableImage`, for each name."""


def valid_mask(source: Source) -> Tensor | None:
    """Return the known pixels of a source's images, (1, S, S) with 1 = known; None if all are."""
    box = getattr(source, "valid_box", None)
    if box is None:
        return None
    left, top, right, bottom = box
    valid = torch.zeros(1, source.image_size, source.image_size)
    valid[:, top:bottom, left:right] = 1
    return valid


def image_bytes(source: Source) -> int:
    """Return the size of a decoded image in bytes."""
    return source.channels * source.image_size**2


def cache_key(source: Source, items: list[str]) -> str:
    """Return the directory name of a cache, a hash of the settings and of the items.

    The sizes and modification times of the files that are read are part of the hash, so a changed
    file leads to a new cache.  Without source.file_of, these are the files settings()["root"]/item
    or, if there are none, all files below the root.
    """
    settings = source.settings()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    files: list[Path | None] = [None] * len(items)
    if hasattr(source, "file_of"):
        files = [source.file_of(item) for item in items]
    elif root := settings.get("root"):
        paths = [Path(root, item) for item in items]
        if Path(root).is_dir() and not any(path.is_file() for path in paths):
            digest.update(hash_files(files_below(Path(root))).encode())
        files = [*paths]
    for item, path in zip(items, files, strict=True):
        digest.update(os.fsencode(item))
        if path is not None and path.is_file():
            stat = path.stat()
            digest.update(f" {stat.st_size} {stat.st_mtime_ns}".encode())
        digest.update(b"\n")
    kind = settings.get("source", type(source).__name__)
    return f"{kind}{source.image_size}_{digest.hexdigest()[:16]}"


def select_items(source: Source, split: str, limit: int | None = None) -> list[str]:
    """Return the names of a split's images, or of `limit` of them at equal distances."""
    items = source.items(split)
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def load_split(source: Source, split: str, cache_dir: str, limit: int | None = None) -> CachedSplit:
    """Return the images of a split, uint8 (N, C, S, S) in a memory map, and their names.

    With `limit`, these are the images of `select_items`, which have a cache of their own.

    On first use, or if the cache is damaged, one process decodes the images and shows a progress
    bar.  Unreadable images are skipped with a warning.

    Raises:
        ValueError: If the split is unknown or empty, if more than 1% of the images cannot be
            read, if the disk is too small (checked before decoding), or if the cache cannot be
            written.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split={split!r}: choose train, val or test")
    items = select_items(source, split, limit)
    if not items:
        where = source.settings().get("root", "the source")
        raise ValueError(f"no images in the {split} split of {where}")
    key = cache_key(source, items)
    folder = _cache_root(cache_dir, key) / key
    shape = (source.channels, source.image_size, source.image_size)
    cached = _open(folder, shape)
    if cached is not None:
        return cached
    try:
        with _acquire_lock(folder):
            cached = _open(folder, shape, add_checksums=True)  # another run may have built it
            if cached is None:
                _remove_unfinished(folder)
                _check_disk_space(folder.parent, split, len(items), image_bytes(source))
                _build(source, split, items, folder, shape)
                cached = _open(folder, shape)
    except OSError as error:
        why = error.strerror or error
        raise ValueError(f"cache_dir={cache_dir}: cannot be written ({why})") from error
    if cached is None:
        raise ValueError(f"cache_dir={cache_dir}: the disk returns other data than was written")
    return cached


def _cache_root(cache_dir: str, key: str) -> Path:
    """Return the directory of all caches.

    Containers may have no home directory, or one that cannot be written.  If the default is there
    and has no cache `key`, a directory for temporary files takes its place.

    Raises ValueError if another directory is in a home directory that does not exist.
    """
    try:
        root = Path(cache_dir).expanduser()
    except RuntimeError as error:
        if cache_dir != DEFAULT_CACHE_DIR:
            raise ValueError(
                f"cache_dir={cache_dir}: this user has no home directory. Use a path without ~"
            ) from error
        return _temporary_root()
    if cache_dir == DEFAULT_CACHE_DIR and not (root / key).is_dir() and not _is_writable(root):
        return _temporary_root()
    return root


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK)


@functools.cache  # one line for all splits
def _temporary_root() -> Path:
    """Return a directory for temporary files that only this user can write, and print its name."""
    user = os.getuid()
    root = Path(tempfile.gettempdir()) / f"dcgan_inpaint-{user}"
    root.mkdir(mode=0o700, exist_ok=True)
    status = root.lstat()  # another user may have made it, to provide other images
    if not S_ISDIR(status.st_mode) or status.st_uid != user or status.st_mode & 0o022:
        raise ValueError(f"cache_dir={root}: others can write it. Use another cache_dir=")
    print(f"using cache_dir={root}, because {DEFAULT_CACHE_DIR} cannot be written", file=sys.stderr)
    return root


def _open(
    folder: Path, shape: tuple[int, int, int], add_checksums: bool = False
) -> CachedSplit | None:
    """Return the contents of a cache of images (C, S, S), or None if it is missing or damaged.

    `add_checksums` writes checksums.json if it is missing, as in caches of earlier versions.
    """
    file = folder / "images.bin"
    names, checksums = _read_json(folder / "names.json"), _read_json(folder / "checksums.json")
    if not isinstance(names, list) or not names or not file.is_file():
        return None
    stat = file.stat()
    if stat.st_size != len(names) * math.prod(shape):
        return None
    chunk_size = CHUNK_IMAGES * math.prod(shape)
    expected = _checksums(names, _chunk_checksums(file, chunk_size, stat.st_ino, stat.st_mtime_ns))
    if add_checksums and not (folder / "checksums.json").exists():
        _write_json(folder / "checksums.json", expected)
    elif checksums != expected:
        return None
    return np.memmap(file, np.uint8, mode="r", shape=(len(names), *shape)), names


def _read_json(path: Path) -> Any:
    """Return the contents of a JSON file, or None if it is missing or invalid."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as file:
        file.write(json.dumps(value).encode())


def _checksums(names: list[str], chunks: list[int]) -> dict[str, Any]:
    """Compute the contents of checksums.json."""
    return {"names": zlib.crc32(json.dumps(names).encode()), "chunks": chunks}


@functools.lru_cache(maxsize=16)  # one training opens the same split several times
def _chunk_checksums(file: Path, size: int, inode: int, modified: int) -> list[int]:
    """Return the CRC-32 of each `size` bytes of a file; `inode` and `modified` identify it."""
    data = np.memmap(file, np.uint8, mode="r")
    with ThreadPoolExecutor() as pool:  # zlib releases the interpreter lock
        chunks = (data[start : start + size] for start in range(0, len(data), size))
        return list(pool.map(zlib.crc32, chunks))


def _cache_lock(folder: Path) -> FileLock:
    """Return the lock of a cache, which a process that holds it can acquire again."""
    return FileLock(folder.with_name(f".{folder.name}.lock"), is_singleton=True)


def _acquire_lock(folder: Path) -> AcquireReturnProxy:
    """Acquire the lock for building a cache; the system frees the lock of a killed process."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = _cache_lock(folder)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: waiting for another run to finish decoding", file=sys.stderr)
        return lock.acquire()


def _remove_unfinished(folder: Path) -> None:
    """Remove the files of interrupted builds, of this cache and of others that are not locked."""
    for path in folder.parent.glob(f".*{BUILDING}*"):
        cache = folder.with_name(path.name[1:].rpartition(BUILDING)[0])
        with (
            suppress(Timeout),
            _cache_lock(cache).acquire(timeout=0),
        ):  # otherwise it is being built
            shutil.rmtree(path)


def _check_disk_space(cache_dir: Path, split: str, count: int, size: int) -> None:
    """Raise ValueError if `count` images of `size` bytes exceed the free space of the disk."""
    free = shutil.disk_usage(cache_dir).free
    if count * size > free:
        raise ValueError(
            f"cache_dir={cache_dir}: the {split} split of {format_count(count, 'image')} needs "
            f"{count * size / 1e9:.2f} GB, and the disk has {free / 1e9:.2f} GB left. Use "
            "another cache_dir= or a smaller data.image_size="
        )


def check_unreadable(
    bad: int,
    count: int,
    split: str,
    example: UnreadableImage,
    error: type[Exception] = ValueError,
) -> None:
    """Raise an error if more than 1% of the images in a split cannot be read."""
    if bad > 0.01 * count:
        raise error(
            f"{bad} of {format_count(count, 'image')} in the {split} split cannot be read, and "
            f"more than 1% are not tolerated. Fix or remove them, for example {example}"
        )


def warn_unreadable(bad: int, count: int, split: str, example: UnreadableImage) -> None:
    """Warn that images of a split cannot be read and are left out."""
    warnings.warn(
        f"skipped {bad} of {format_count(count, 'image')} in the {split} split, "
        f"for example {example}",
        stacklevel=3,
    )


def _image_data(name: str, image: Any, shape: tuple[int, int, int]) -> bytes:
    """Return the bytes of an image.  Raises ValueError unless it is uint8 of that shape."""
    actual = getattr(image, "shape", None), getattr(image, "dtype", type(image).__name__)
    if actual != (shape, np.uint8):
        raise ValueError(
            f"{name}: decoded to {actual[0]} of {actual[1]}, but expected {shape} of uint8"
        )
    return image.tobytes()


def _build(
    source: Source, split: str, items: list[str], folder: Path, shape: tuple[int, int, int]
) -> None:
    if folder.exists():
        print(f"{folder}: damaged, decoding the images again", file=sys.stderr)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}{BUILDING}", dir=folder.parent))
    try:
        names: list[str] = []
        chunks: list[int] = []
        unreadable: list[UnreadableImage] = []
        with (
            (building / "images.bin").open("wb") as file,
            tqdm(total=len(items), desc=f"decoding {split}", unit="image") as progress,
        ):
            for start in range(0, len(items), CHUNK_IMAGES):
                chunk = items[start : start + CHUNK_IMAGES]
                for name, image in zip(chunk, source.decode(chunk), strict=True):
                    if isinstance(image, UnreadableImage):
                        unreadable.append(image)
                        continue
                    if len(names) % CHUNK_IMAGES == 0:
                        chunks.append(0)
                    data = _image_data(name, image, shape)
                    chunks[-1] = zlib.crc32(data, chunks[-1])
                    file.write(data)
                    names.append(name)
                progress.update(len(chunk))
        if unreadable:
            report = len(unreadable), len(items), split, unreadable[0]
            check_unreadable(*report)
            warn_unreadable(*report)
        _write_json(building / "names.json", names)
        _write_json(building / "checksums.json", _checksums(names, chunks))
        if folder.exists():  # runs that have it open keep their memory map
            shutil.rmtree(folder)
        os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)

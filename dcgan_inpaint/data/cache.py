"""Decode once: a split as one uint8 array on disk, memory-mapped ever after.

Layout: <cache_dir>/<key>/images.bin, (N, C, S, S) uint8, beside names.json.  A cache is built in a
temporary folder and renamed when whole, so a killed build leaves nothing that looks finished.
"""

import hashlib
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from tqdm import tqdm

from dcgan_inpaint.data.images import UnreadableImage

CHUNK = 256  # pictures decoded between two writes


@runtime_checkable
class Source(Protocol):
    """Where pictures come from; one small class per kind."""

    image_size: int
    channels: int
    crop: float

    def settings(self) -> dict: ...
    def items(self, split: str) -> list[str]: ...
    def decode(self, items: list[str]) -> list: ...


def cache_key(source: Source, items: list[str]) -> str:
    """Names the cache of these items; sizes and times make an edited file a new one."""
    settings = source.settings()
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    root = Path(settings.get("root", ""))
    for item in items:
        digest.update(item.encode())
        path = root / item
        if "root" in settings and path.is_file():
            stat = path.stat()
            digest.update(f" {stat.st_size} {stat.st_mtime_ns}".encode())
        digest.update(b"\n")
    return f"{settings['source']}{source.image_size}_{digest.hexdigest()[:16]}"


def load_split(source: Source, split: str, cache_dir: str) -> tuple[np.ndarray, list[str]]:
    """The pictures of a split, uint8 (N, C, S, S) memory-mapped, and their names.

    Built with a progress bar on first use.  Unreadable pictures are named in a warning and left
    out.  Raises ValueError for an unknown or empty split, and when more than 1% cannot be read.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split={split!r}: choose train, val or test")
    items = source.items(split)
    if not items:
        where = source.settings().get("root", "the source")
        raise ValueError(f"no pictures in the {split} split of {where}")
    folder = Path(cache_dir).expanduser() / cache_key(source, items)
    if not folder.exists():
        _build(source, split, items, folder)
    names = json.loads((folder / "names.json").read_text())
    shape = (len(names), source.channels, source.image_size, source.image_size)
    return np.memmap(folder / "images.bin", np.uint8, mode="r", shape=shape), names


def _build(source: Source, split: str, items: list[str], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        names, bad = [], 0
        with (
            (building / "images.bin").open("wb") as file,
            tqdm(total=len(items), desc=f"decoding {split}", unit="picture") as progress,
        ):
            for start in range(0, len(items), CHUNK):
                chunk = items[start : start + CHUNK]
                for name, picture in zip(chunk, source.decode(chunk), strict=True):
                    if isinstance(picture, UnreadableImage):
                        warnings.warn(f"skipped {picture}", stacklevel=2)
                        bad += 1
                    else:
                        file.write(picture.tobytes())
                        names.append(name)
                progress.update(len(chunk))
        if bad > 0.01 * len(items):
            raise ValueError(
                f"{bad} of {len(items)} pictures in the {split} split cannot be read (named above);"
                " more than 1% is no accident: mend or remove them"
            )
        if bad:
            warnings.warn(f"{bad} of {len(items)} {split} pictures skipped", stacklevel=2)
        (building / "names.json").write_text(json.dumps(names))
        os.replace(building, folder)
    except OSError:
        if not (folder / "names.json").exists():  # else: another run finished the same cache first
            raise
    finally:
        shutil.rmtree(building, ignore_errors=True)

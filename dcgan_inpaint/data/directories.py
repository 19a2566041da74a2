"""Files below a directory: which of them are images, and a hash of them all."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

EXTENSIONS = {e.lower() for e, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def list_images(folder: Path) -> list[Path]:
    """Return every image file below a folder, sorted."""
    return [path for path in files_below(folder) if path.suffix.lower() in EXTENSIONS]


def hash_files(files: Iterable[Path]) -> str:
    """Return a hash of the paths, sizes and modification times of files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        stat = path.stat()
        line = f"{path} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]

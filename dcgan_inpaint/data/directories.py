"""Files below a directory or named by an option: which are images, and a hash of them all."""

import glob
import hashlib
import os
from collections import deque
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from PIL import Image

# Pillow only recognizes files of these formats, or decodes them with another program.
UNDECODED_FORMATS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
EXTENSIONS = {".mpo"} | {
    suffix.lower()
    for suffix, name in Image.registered_extensions().items()
    if name in Image.OPEN and name not in UNDECODED_FORMATS
}


def has_image_suffix(path: PurePath) -> bool:
    """Return whether the suffix of a file is that of an image format."""
    return path.suffix.lower() in EXTENSIONS


def files_below(folder: Path) -> list[Path]:
    """Return every file below a folder, sorted, except hidden ones and those in hidden folders.

    Hidden names begin with a dot.  Symbolic links are followed.  Each folder is read once, whatever
    the number of links to it, so links in a circle come to an end.

    Raises:
        ValueError: If a folder cannot be read.
    """
    files: list[Path] = []
    visited: set[str] = set()
    folders, links = deque([folder]), deque[Path]()
    while folders or links:
        # Folders come before links: a link must not rename the files of a folder beside it.
        current = folders.popleft() if folders else links.popleft()
        real = os.path.realpath(current)
        if real in visited:
            continue
        visited.add(real)
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(
                f"{current}: cannot be read ({error.strerror}). Change its permissions or remove it"
            ) from error
        for entry in entries:
            path = current / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_symlink():
                if os.path.isdir(path):
                    links.append(path)
                elif os.path.isfile(path) or not os.path.exists(path):  # a broken link is reported
                    files.append(path)
            elif entry.is_dir():
                folders.append(path)
            elif entry.is_file():
                files.append(path)
    return sorted(files)


def list_images(folder: Path) -> list[Path]:
    """Return every image file below a folder, sorted; see `files_below`."""
    return [path for path in files_below(folder) if has_image_suffix(path)]


def unnested(folder: Path) -> Path:
    """Return folder/<its name> if that exists, as Kaggle's archives unpack, or else the folder."""
    nested = folder / folder.name
    return nested if nested.is_dir() else folder


def expand_glob(pattern: Path) -> list[Path]:
    """Return the paths that match a pattern, sorted.

    ** stands for any number of folders, as in `files_below`.  Brackets in the names of existing
    leading folders stand for themselves.  If nothing matches otherwise, all brackets do.
    """
    folder = next((each for each in pattern.parents if os.path.isdir(each)), Path())
    parts = pattern.relative_to(folder).parts
    literal = [part.replace("[", "[[]") for part in parts]
    return sorted(_expand(folder, parts) or _expand(folder, literal))


def _expand(folder: Path, parts: Sequence[str]) -> list[Path]:
    """Return the paths below a folder that match the parts of a pattern."""
    if "**" not in parts:
        return [Path(name) for name in glob.glob(os.path.join(glob.escape(str(folder)), *parts))]
    # Not glob's own **, which follows links in a circle again and again.
    start = parts.index("**")
    bases = _expand(folder, parts[:start]) if start else [folder]
    files = ((base, file) for base in bases if base.is_dir() for file in files_below(base))
    return [f for base, f in files if _match(f.relative_to(base).parts, parts[start:])]


def _match(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Return whether the names of folders and a file match the parts of a pattern."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_match(names[i:], parts[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatchcase(names[0], parts[0]) and _match(names[1:], parts[1:])


def hash_files(files: Iterable[Path]) -> str:
    """Return a hash of the paths, sizes and modification times of files."""
    digest = hashlib.sha256()
    for path in sorted(files):
        line = str(path)
        if path.is_file():
            stat = path.stat()
            line += f" {stat.st_size} {stat.st_mtime_ns}"
        digest.update(f"{line}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:16]


def find_images(images: str | Sequence[str], option: str = "images") -> list[Path]:
    """Return the image files that an option names, in order.

    Args:
        images: A file, a folder, a glob, or a list of these.  Of a folder and of a glob, hidden
            files and those without the suffix of an image format are left out.
        option: Name of the option in error messages.

    Raises:
        ValueError: If a name matches nothing, or something that is not a file, such as a pipe.
    """
    paths: list[Path] = []
    for pattern in [images] if isinstance(images, str) else images:
        path = Path(pattern).expanduser()
        if os.path.isdir(path):  # also False for a text that cannot be a path
            matches = list_images(path)
        elif os.path.exists(path):
            matches = [path]
        else:
            matches = [match for match in expand_glob(path) if has_image_suffix(match)]
        if not matches:
            raise ValueError(f"{option}={pattern}: no image found. Give a file, folder or glob")
        for match in matches:
            if os.path.exists(match) and not match.is_file():  # opening a pipe would block forever
                raise ValueError(f"{option}={pattern}: {match} is not a regular file")
        paths += matches
    return paths

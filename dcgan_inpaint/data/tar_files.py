"""Images in uncompressed tar files: which files an option names, and where their images are."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dcgan_inpaint.data.directories import expand_glob, has_image_suffix

# tarfile of the standard library stays: the package webdataset runs "pipe:" URLs and unpickles.
TAR_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")  # {000..099}


class TarMember(NamedTuple):
    """Position and size of an image in an uncompressed tar file."""

    tar: Path
    offset: int
    size: int


def find_tars(urls: str, option: str) -> list[Path]:
    """Return the tar files that an option names, in order.

    Raises FileNotFoundError if one does not exist, and ValueError for a URL.
    """
    if "://" in urls or urls.startswith("pipe:"):
        raise ValueError(f"{option}={urls}: expected a path. Download remote files first")
    tars: list[Path] = []
    for pattern in [urls] if Path(urls).expanduser().is_file() else _expand_ranges(urls):
        path = Path(pattern).expanduser()
        matches = [path] if path.is_file() else expand_glob(path)
        if not matches:
            raise FileNotFoundError(f"{option}={urls}: {path} does not exist")
        tars += matches
    return tars


def _expand_ranges(urls: str) -> Iterator[str]:
    """Expand the ranges in a path: "a-{08..10}" yields "a-08", "a-09" and "a-10"."""
    if (match := TAR_RANGE.search(urls)) is None:
        yield urls
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        number_text = f"{number:0{len(first)}d}"
        yield from _expand_ranges(urls[: match.start()] + number_text + urls[match.end() :])


def image_members(tars: list[Path]) -> Iterator[tuple[str, TarMember]]:
    """Yield the name and the position of each image, in order; other members are skipped.

    Raises ValueError for a file that is not an uncompressed tar file.
    """
    for tar in tars:
        try:
            with tarfile.open(tar, "r:") as archive:  # "r:" is uncompressed: members have offsets
                for member in archive:
                    path = PurePosixPath(member.name)
                    hidden = any(part.startswith(".") for part in path.parts if part != "..")
                    if member.isfile() and has_image_suffix(path) and not hidden:
                        position = TarMember(tar, member.offset_data, member.size)
                        yield f"{tar}/{member.name}", position
        except tarfile.TarError as error:
            raise ValueError(
                f"{tar}: not an uncompressed tar file. Decompress it first ({error})"
            ) from error

"""Tar files of images, as WebDataset writes them, read where they lie.

By Python's tarfile, not by the package webdataset: that runs what its urls say ("pipe:..."), and
its decoders unpickle members by their extension, where a tar may be anybody's.  Here an image is
decoded by its place in the file: once, or, of a set over its cache_limit, once in each epoch.
"""

import glob
import io
import re
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from dcgan_inpaint.configs import Positive, Text, checked
from dcgan_inpaint.data.decoding import EXTENSIONS, Channels, Crop, Side
from dcgan_inpaint.data.parts import Parts, stamp

SPAN = re.compile(r"\{(\d+)\.\.(\d+)\}")  # {000..099}


class Place(NamedTuple):
    """Where an image lies: its bytes in an uncompressed tar."""

    tar: Path
    offset: int
    size: int


class Tars(Parts):
    """Every image in tars, in their order; members that are none, such as labels, are passed by.

    `urls` names the tars that are trained on, `val_urls` and `test_urls` those of these splits:
    paths, with {000..099} for a span and *, ? for a glob.  `cache_limit` is in GB
    (streaming.py).  Raises FileNotFoundError for one that is not there, ValueError for what is no
    plain tar of images.
    """

    kind = "webdataset"

    @checked
    def __init__(
        self,
        urls: Text,
        image_size: Side = 64,
        channels: Channels = 3,
        crop: Crop = 1.0,
        val_urls: Text | None = None,
        test_urls: Text | None = None,
        cache_limit: Positive | None = None,
    ):
        parts = {"train": urls, "val": val_urls, "test": test_urls}
        super().__init__(image_size, channels, crop, parts)
        self.urls, self.val_urls, self.test_urls = urls, val_urls, test_urls
        self.cache_limit = cache_limit
        keys = {"train": "data.urls", "val": "data.val_urls", "test": "data.test_urls"}
        named = {part: keys[split] for split, part in parts.items() if part is not None}
        self.tars = {part: find_tars(part, key) for part, key in named.items()}

    @cached_property
    def places(self) -> dict[str, dict[str, Place]]:
        """By part and name, where each image lies; the heads of all members are read, once."""
        return {part: dict(_images(tars)) for part, tars in self.tars.items()}

    def names(self, part: str | None) -> list[str]:
        return list(self.places[part or ""])

    def image(self, item: str) -> Image.Image:
        place = self._place(item)
        with place.tar.open("rb") as file:
            file.seek(place.offset)
            return Image.open(io.BytesIO(file.read(place.size)))

    def shard(self, item: str) -> str:
        return str(self._place(item).tar)

    def _place(self, item: str) -> Place:
        return next(names[item] for names in self.places.values() if item in names)

    def settings(self) -> dict:
        files = {tar.resolve() for tars in self.tars.values() for tar in tars}
        return super().settings() | {"files": stamp(files)}


def find_tars(urls: str, key: str) -> list[Path]:
    """The files that `urls` names, in order; `key` is the option that said so.

    Raises FileNotFoundError for one that is not there, ValueError for what is no path.
    """
    if "://" in urls or urls.startswith("pipe:"):
        raise ValueError(f"{key}={urls}: should be a path: fetch what lies elsewhere first")
    found: list[Path] = []
    for pattern in _spans(urls):
        path = Path(pattern).expanduser()
        matches = (
            [path] if path.is_file() else [Path(each) for each in sorted(glob.glob(str(path)))]
        )
        if not matches:
            raise FileNotFoundError(f"{key}={urls}: there is no {path}")
        found += matches
    return found


def _spans(urls: str) -> Iterator[str]:
    """Each of what a text with spans stands for: a-{08..10} is a-08, a-09, a-10."""
    if (span := SPAN.search(urls)) is None:
        yield urls
        return
    first, last = span.groups()
    for number in range(int(first), int(last) + 1):
        yield from _spans(f"{urls[: span.start()]}{number:0{len(first)}d}{urls[span.end() :]}")


def _images(tars: list[Path]) -> Iterator[tuple[str, Place]]:
    for tar in tars:
        try:
            with tarfile.open(tar, "r:") as archive:  # "r:": not compressed, so that it has places
                for member in archive:
                    if member.isfile() and Path(member.name).suffix.lower() in EXTENSIONS:
                        place = Place(tar, member.offset_data, member.size)
                        yield f"{tar}/{member.name}", place
        except tarfile.TarError as error:
            raise ValueError(f"{tar}: no tar, or a compressed one: unpack it ({error})") from error

"""Data sets of torchvision and Hugging Face, opened by their libraries.

The files are untrusted, and none of them can run code.  Of the torchvision sets only CIFAR
contains pickles, and torchvision opens them only if their checksums are those of the published
files.  Since version 4, the library `datasets` runs no code of a data set.
"""

import inspect
import io
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from dcgan_inpaint.configs import Positive, Text
from dcgan_inpaint.data.decoding import (
    Channels,
    CropShare,
    ImageSize,
    PartitionedSource,
    UnreadableImage,
    source_class,
)
from dcgan_inpaint.data.directories import files_below, hash_files
from dcgan_inpaint.errors import import_extra, show

# The index of LSUN is a pickle without a checksum; VisionDataset is the abstract base class.
EXCLUDED_SETS = {"LSUN", "LSUNClass", "VisionDataset"}


class LibrarySource(PartitionedSource):
    """Base class of the sources whose parts a library opens and reads by index."""

    key_option: ClassVar[str]  # option that names the data set
    parts_kept_open: ClassVar[int]

    def __post_init__(self) -> None:
        self._opened = lru_cache(maxsize=self.parts_kept_open)(self._open)
        self._count = cache(lambda part: len(self._opened(part)))

    def _open(self, part: str | None) -> Any:
        """Return the samples of a part.  Raises ValueError if it cannot be opened."""
        raise NotImplementedError

    def names(self, part: str | None) -> list[str]:
        prefix = part or getattr(self, self.key_option)
        return [f"{prefix}/{i:07d}" for i in range(self._count(part))]

    def decode(self, items: Sequence[str]) -> list[np.ndarray | UnreadableImage]:
        for part in {self._part(item) for item in items}:
            self._opened(part)  # once, before several threads ask for it
        return super().decode(items)

    def file_of(self, item: str) -> None:
        """Return None: `settings` has a hash of all files."""

    def _sample(self, item: str) -> Any:
        return self._opened(self._part(item))[int(item.rpartition("/")[2])]

    def _part(self, item: str) -> str | None:
        part = item.rpartition("/")[0]
        return part if part in self.parts.values() else None

    def _describe(self, part: str | None) -> str:
        """Return the options that select a part, for error messages."""
        split = next(split for split, value in self.parts.items() if value == part)
        name = getattr(self, self.key_option)
        return f"data.{self.key_option}={name} data.{self.part_options[split]}={show(part)}"

    def settings(self) -> dict:
        return super().settings() | {"files": self._fingerprint}

    @cached_property
    def _fingerprint(self) -> str:
        """Return a hash of the files, computed once so that files of a run do not change it."""
        return hash_files(self._files())

    def _files(self) -> list[Path]:
        return files_below(self.folder)


@source_class
class TorchvisionSet(LibrarySource):
    """A data set of torchvision.datasets whose samples begin with an image; labels are not used.

    Args:
        name: Class name in torchvision.datasets.
        root: Directory of the files.
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        crop: Side of the central square divided by the short side.
        train, val, test: The part for each split: a value of the data set's argument `split`,
            or "train" and "test" if it has `train=True` and `train=False` instead.  None for
            `train` selects a data set that has a single part.
        download: Whether torchvision may download missing files into `root`.

    Raises:
        ValueError: If there is no such data set of images.
        FileNotFoundError: If `root` does not exist.
    """

    kind = "torchvision"
    key_option = "name"
    parts_kept_open = 1  # an open part may fill the memory, and parts are decoded in turn

    name: Text
    root: Text
    image_size: ImageSize = 64
    channels: Channels = 3
    crop: CropShare = 1.0
    train: Text | None = None
    val: Text | None = None
    test: Text | None = None
    download: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.parameters = _constructor_parameters(self.name)
        if not self.folder.is_dir() and not self.download:
            raise FileNotFoundError(
                f"data.root={self.root}: not a directory. Give the directory of {self.name}"
            )
        if self.download and "download" not in self.parameters:
            raise ValueError(f"data.download=true: torchvision cannot download {self.name}")

    def open_image(self, item: str) -> Image.Image:
        return self._sample(item)[0]

    def settings(self) -> dict:
        return super().settings() | {"name": self.name}

    def _open(self, part: str | None) -> Any:
        from torchvision import datasets  # slow to import

        label = self._describe(part)
        arguments = _part_arguments(label, self.parameters, part)
        if "download" in self.parameters:
            arguments["download"] = self.download  # some data sets download by default
        try:
            samples = getattr(datasets, self.name)(str(self.folder), **arguments)
            image = samples[0][0] if len(samples) else None
        except ModuleNotFoundError as error:
            library = str(error.name).partition(".")[0]
            raise ModuleNotFoundError(f"{label}: needs {library}: pip install {library}") from error
        except Exception as error:  # readers raise errors of many types for broken files
            why = error or type(error).__name__
            raise ValueError(f"{label} data.root={self.folder}: {why}") from error
        if image is not None and not isinstance(image, Image.Image):
            kind = type(image).__name__
            raise ValueError(f"{label}: the samples begin with a {kind}, not with an image")
        return samples


def _constructor_parameters(name: str) -> set[str]:
    """Return the parameters of a data set of torchvision.  Raises ValueError if there is none."""
    from torchvision import datasets

    supported = {}
    for each in set(datasets.__all__) - EXCLUDED_SETS:
        parameters = inspect.signature(getattr(datasets, each)).parameters
        required = {p.name for p in parameters.values() if p.default is p.empty} - {"kwargs"}
        if "root" in parameters and required <= {"root", "split"}:
            supported[each] = set(parameters)
    if name not in supported:
        raise ValueError(f"data.name={name}: choose one of {', '.join(sorted(supported))}")
    return supported[name]


def _part_arguments(label: str, parameters: set[str], part: str | None) -> dict[str, Any]:
    """Return the constructor arguments that select a part.

    Raises ValueError, which begins with `label`, if the data set has no such part.
    """
    if "split" in parameters:
        if part is not None:
            return {"split": part}  # the data set checks the name itself
        problem = "has several parts. Set data.train= to one of them"
    elif "train" in parameters:
        if part in ("train", "test"):
            return {"train": part == "train"}
        problem = "has two parts. Use train or test"
    else:
        if part is None:
            return {}
        problem = "has a single part. Use data.train=null data.val=null data.test=null"
    raise ValueError(f"{label}: the data set {problem}")


@source_class
class HuggingFace(LibrarySource):
    """The images in one column of a data set that the library `datasets` opens.

    The library keeps its own copy in HF_HOME.  Other columns are not read.

    Args:
        path: A folder of parquet files or, with `download`, a name on the Hugging Face Hub.
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        crop: Side of the central square divided by the short side.
        split: The part that is trained on.
        column: The column of the images.
        val, test: The parts for validation and testing.
        download: Whether `path` may be a name on the Hub.
        cache_limit: Size in GB above which the training split is streamed.

    Raises:
        FileNotFoundError: If `path` does not exist.
        ModuleNotFoundError: If the library is not installed.
    """

    kind = "huggingface"
    key_option = "path"
    parts_kept_open = 3  # memory-mapped by the library
    part_options = {"train": "split", "val": "val", "test": "test"}

    path: Text
    image_size: ImageSize = 64
    channels: Channels = 3
    crop: CropShare = 1.0
    split: Text = "train"
    column: Text = "image"
    val: Text | None = None
    test: Text | None = None
    download: bool = False
    cache_limit: Positive | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.is_local = self.folder.is_dir()
        if not self.is_local and not self.download:
            raise FileNotFoundError(
                f"data.path={self.path}: not a directory. "
                "Set data.download=true for a name on the Hub"
            )
        if self.is_local and set("[]") & set(str(self.folder.resolve())):
            raise ValueError(
                f"data.path={self.path}: the library `datasets` reads brackets as a pattern. "
                "Rename the folder"
            )
        self.library = import_extra("datasets", "data=huggingface", "datasets", "huggingface")

    @property
    def folder(self) -> Path:
        return Path(self.path).expanduser()

    def open_image(self, item: str) -> Image.Image:
        stored = self._sample(item)[self.column]
        if stored["bytes"] is None:  # a path could lead to any other image on this machine
            raise ValueError("the data set stores only the path of the image: use data=folder")
        return Image.open(io.BytesIO(stored["bytes"]))

    def settings(self) -> dict:
        return super().settings() | {"path": self.path, "column": self.column}

    def _files(self) -> list[Path]:
        if self.is_local:
            return super()._files()
        parts = {part for part in self.parts.values() if part is not None}
        return [Path(f["filename"]) for part in parts for f in self._opened(part).cache_files]

    def _open(self, part: str | None) -> Any:
        label = self._describe(part)
        path = str(self.folder) if self.is_local else self.path
        try:
            samples = self.library.load_dataset(path, split=part)
        except Exception as error:  # readers raise errors of many types for broken files
            raise ValueError(f"{label}: {error or type(error).__name__}") from error
        if self.column not in samples.column_names:
            columns = ", ".join(samples.column_names)
            raise ValueError(
                f"data.column={show(self.column)}: {label} has only the columns {columns}"
            )
        try:  # as bytes: the images are decoded like those of all other sources
            undecoded = self.library.Image(decode=False)
            return samples.select_columns(self.column).cast_column(self.column, undecoded)
        except Exception as error:
            kind = samples.features[self.column]
            raise ValueError(
                f"data.column={self.column}: {label} has {kind}, not images"
            ) from error

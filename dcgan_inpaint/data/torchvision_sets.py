"""Any set of torchvision whose samples begin with an image, by its name there.

torchvision reads the files, and what it reads may be anybody's.  Of those taken here only CIFAR's
hold code, pickles, which it opens when their checksums are those of the published files alone.
LSUN, whose index is a pickle without a checksum, is not taken.
"""

import inspect
from collections.abc import Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dcgan_inpaint.configs import Text, checked
from dcgan_inpaint.data.decoding import Channels, Crop, Side, UnreadableImage
from dcgan_inpaint.data.parts import Parts, files_below, stamp
from dcgan_inpaint.errors import show

NOT_TAKEN = {"LSUN", "LSUNClass", "VisionDataset"}  # the last is what they are built on


class TorchvisionSet(Parts):
    """The set `name` of torchvision.datasets, from its files in `root`; labels are not used.

    `train`, `val` and `test` are parts as torchvision names them: a value of the set's split=, or
    "train" and "test" where it has train=true and false; None of a set that is in one part.
    `download` lets torchvision fetch it into root.  Raises ValueError for a name that is no such
    set, FileNotFoundError where root is not there.
    """

    kind = "torchvision"

    @checked
    def __init__(
        self,
        name: Text,
        root: Text,
        image_size: Side = 64,
        channels: Channels = 3,
        crop: Crop = 1.0,
        train: Text | None = None,
        val: Text | None = None,
        test: Text | None = None,
        download: bool = False,
    ):
        super().__init__(image_size, channels, crop, {"train": train, "val": val, "test": test})
        self.name, self.root, self.download = name, Path(root).expanduser(), download
        self.train, self.val, self.test = train, val, test
        self.parameters = _parameters(name)
        if not self.root.is_dir() and not download:
            raise FileNotFoundError(f"data.root={root} is not a folder: give that of {name}")
        if download and "download" not in self.parameters:
            raise ValueError(f"data.download=true: torchvision cannot fetch {name}")
        # a part may be large, and is read at once; they are decoded one after the other
        self._opened = lru_cache(maxsize=1)(self._open)
        self._count = cache(lambda part: len(self._opened(part)))

    def names(self, part: str | None) -> list[str]:
        return [f"{part or self.name}/{i:07d}" for i in range(self._count(part))]

    def decode(self, items: Sequence[str]) -> list[np.ndarray | UnreadableImage]:
        for part in {self._part(item) for item in items}:
            self._opened(part)  # once, before several threads ask for it
        return super().decode(items)

    def image(self, item: str) -> Image.Image:
        return self._opened(self._part(item))[int(item.rpartition("/")[2])][0]

    def _part(self, item: str) -> str | None:
        part = item.rpartition("/")[0]
        return part if part in self.parts.values() else None

    def settings(self) -> dict:
        facts = {"name": self.name, "root": str(self.root.resolve())}
        return super().settings() | facts | {"files": self._files}

    @cached_property
    def _files(self) -> str:
        """Of the first look: what a run writes below root meanwhile makes no other cache."""
        return stamp(files_below(self.root))

    def _open(self, part: str | None) -> Any:
        from torchvision import datasets  # only here: slow to import

        key = next(split for split, its in self.parts.items() if its == part)
        asked = f"data.name={self.name} data.{key}={show(part)}"
        arguments = _selects(asked, self.parameters, part)
        if "download" in self.parameters:
            arguments["download"] = self.download  # some fetch without being asked
        try:
            opened = getattr(datasets, self.name)(str(self.root), **arguments)
            first = opened[0][0] if len(opened) else None
        except ModuleNotFoundError as error:
            library = str(error.name).partition(".")[0]
            raise ModuleNotFoundError(f"{asked} needs {library}: pip install {library}") from error
        except Exception as error:  # a file can hold anything, and its readers raise many kinds
            why = error or type(error).__name__
            raise ValueError(f"{asked} data.root={self.root}: {why}") from error
        if first is not None and not isinstance(first, Image.Image):
            what = type(first).__name__
            raise ValueError(f"{asked}: its samples begin with a {what}, not with an image")
        return opened


def _selects(asked: str, parameters: set[str], part: str | None) -> dict[str, Any]:
    """How the constructor is told of the part.  Raises ValueError where it knows no such part."""
    if "split" in parameters and part is not None:
        return {"split": part}  # it says itself which there are
    if "train" in parameters and part in ("train", "test"):
        return {"train": part == "train"}
    if part is None and not parameters & {"split", "train"}:
        return {}
    mend = "it is in one part: use data.train=null data.val=null data.test=null"
    if "split" in parameters:
        mend = "it is in parts: give data.train= the name of one"
    elif "train" in parameters:
        mend = "it has the parts train and test alone"
    raise ValueError(f"{asked}: {mend}")


def _parameters(name: str) -> set[str]:
    """What the constructor of a set takes.  Raises ValueError for what is no set of images."""
    from torchvision import datasets

    taken = {}
    for each in set(datasets.__all__) - NOT_TAKEN:
        parameters = inspect.signature(getattr(datasets, each)).parameters
        needed = {p.name for p in parameters.values() if p.default is p.empty} - {"kwargs"}
        if "root" in parameters and needed <= {"root", "split"}:
            taken[each] = set(parameters)
    if name not in taken:
        raise ValueError(f"data.name={name}: choose one of {', '.join(sorted(taken))}")
    return taken[name]

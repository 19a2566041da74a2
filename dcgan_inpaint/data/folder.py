"""Image files of one's own: a folder tree to train on, or a list of files to complete."""

import glob
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from dcgan_inpaint.configs import Text, checked
from dcgan_inpaint.data.decoding import Channels, Crop, ImageFiles, Side, content_hash, list_images


class Folder(ImageFiles):
    """Every image below `root`, split by content: about 90% train, 5% val, 5% test.

    The split of an image depends on its bytes alone, so it survives renaming and new neighbours,
    and exact copies never straddle two splits.  Raises FileNotFoundError for a missing root.
    """

    kind = "folder"

    @checked
    def __init__(self, root: Text, image_size: Side = 64, channels: Channels = 3, crop: Crop = 1.0):
        super().__init__(root, image_size, channels, crop)
        if not self.root.is_dir():
            raise FileNotFoundError(f"data.root={root} is not a folder: give a folder of images")

    def items(self, split: str) -> list[str]:
        """Paths (strings) of the split, sorted."""
        low, high = {"train": (0, 90), "val": (90, 95), "test": (95, 100)}[split]
        return [path for path, percentile in self._percentiles.items() if low <= percentile < high]

    @cached_property
    def _percentiles(self) -> dict[str, int]:
        """Each file's place in 0..99 by its content; reads every file, once."""
        return {str(path): content_hash(path) % 100 for path in list_images(self.root)}

    def open(self, item: str) -> Path:
        return Path(item)


def find_images(images: str | Sequence[str], key: str = "images") -> list[Path]:
    """The files that `images` names: a file, a folder, a glob, or a list of these, in order.

    Errors call it `key`.  Raises ValueError when one of them matches nothing, or what is no file,
    such as a pipe.
    """
    found: list[Path] = []
    for pattern in [images] if isinstance(images, str) else images:
        path = Path(pattern).expanduser()
        if os.path.isdir(path):  # false as well for what can be no path
            matches = list_images(path)
        elif os.path.isfile(path):
            matches = [path]
        else:
            matches = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        if not matches:
            raise ValueError(f"{key}={pattern}: no image there (a file, a glob or a folder)")
        for match in matches:
            if not match.is_file():  # opening a pipe would wait for ever
                raise ValueError(f"{key}={pattern}: {match} is no file")
        found += matches
    return found

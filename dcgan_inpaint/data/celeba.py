"""CelebA (Liu 2015): aligned faces, official splits, the DCGAN papers' central crop."""

import zipfile
from pathlib import Path
from typing import IO

from dcgan_inpaint.configs import Text, checked
from dcgan_inpaint.data.decoding import Channels, Crop, ImageFiles, Side
from dcgan_inpaint.errors import import_extra, show

SPLITS = {"train": "0", "val": "1", "test": "2"}


class CelebA(ImageFiles):
    """Aligned CelebA images (178x218) cropped to the central `crop` x 178 px square.

    `root` holds img_align_celeba/ (or img_align_celeba.zip, read in place) and
    list_eval_partition.txt.  `download=True` fetches them through torchvision.
    Raises FileNotFoundError that says what to put where.
    """

    kind = "celeba"

    @checked
    def __init__(
        self,
        root: Text,
        image_size: Side = 64,
        channels: Channels = 3,
        crop: Crop = 108 / 178,
        download: bool = False,
    ):
        super().__init__(root, image_size, channels, crop)
        if download and not (self.root / "list_eval_partition.txt").exists():
            self._download()
        partition = self.root / "list_eval_partition.txt"
        folder, archive = self.root / "img_align_celeba", self.root / "img_align_celeba.zip"
        if not partition.is_file() or not (folder.is_dir() or archive.is_file()):
            raise FileNotFoundError(
                f"CelebA not found in data.root={root}: put img_align_celeba.zip (or the folder "
                "img_align_celeba/ unzipped from it) and list_eval_partition.txt there, both from "
                "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or set data.download=true"
            )
        self.images: Path | zipfile.Path = folder
        if not folder.is_dir():
            self.images = zipfile.Path(archive) / "img_align_celeba"
        self.partition = [line.split() for line in partition.read_text().splitlines() if line]
        for words in self.partition:
            # a file beside the others: the list may be anybody's
            if len(words) != 2 or "/" in words[0]:
                raise ValueError(
                    f"{partition}: {show(' '.join(words))} is no line of it: a file name of "
                    "img_align_celeba/ and 0, 1 or 2"
                )

    def _download(self) -> None:
        from torchvision.datasets import CelebA as TorchvisionCelebA  # only here: slow to import

        if self.root.name != "celeba":
            raise ValueError(
                f"data.download=true stores into a folder named celeba; data.root={self.root} "
                f"is not: use data.root={self.root / 'celeba'}"
            )
        import_extra("gdown", "data.download=true", "gdown", "download")
        TorchvisionCelebA(str(self.root.parent), download=True)

    def items(self, split: str) -> list[str]:
        """File names of the official split, in the order of the partition file."""
        return [name for name, code in self.partition if code == SPLITS[split]]

    def open(self, item: str) -> IO[bytes]:
        return (self.images / item).open("rb")

"""Sources of image files: directories, CelebA, Stanford Cars, and tar files of WebDataset."""

import hashlib
import io
import os
import zipfile
from functools import cached_property
from pathlib import Path

from PIL import Image

from dcgan_inpaint.configs import Positive, Text
from dcgan_inpaint.data.decoding import (
    Channels,
    CropShare,
    DecodedSource,
    ImageSize,
    PartitionedSource,
    source_class,
    to_rgb_or_gray,
)
from dcgan_inpaint.data.directories import hash_files, list_images, unnested
from dcgan_inpaint.data.tar_files import TarMember, find_tars, image_members
from dcgan_inpaint.errors import import_extra, show

CELEBA_SPLITS = {"train": "0", "val": "1", "test": "2"}  # codes in list_eval_partition.txt


@source_class
class Folder(DecodedSource):
    """Every image below `root`, split 90/5/5 by content.

    The split of an image depends only on the bytes of its file.  It does not change if files
    are renamed or added, and copies of a file are always in the same split.
    Raises FileNotFoundError if `root` does not exist.
    """

    kind = "folder"

    root: Text
    image_size: ImageSize = 64
    channels: Channels = 3
    crop: CropShare = 1.0

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            raise FileNotFoundError(
                f"data.root={self.root}: not a directory. Give a directory of images"
            )

    def items(self, split: str) -> list[str]:
        """Return the paths of the images in a split, sorted."""
        low, high = {"train": (0, 90), "val": (90, 95), "test": (95, 100)}[split]
        return [path for path, percentile in self._percentiles.items() if low <= percentile < high]

    @cached_property
    def _percentiles(self) -> dict[str, int]:
        """Return a number from 0 to 99 for each path, computed from a hash of the file."""
        percentiles = {}
        for path in list_images(self.folder):
            try:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").digest()
            except OSError:  # decoding reports it
                digest = hashlib.sha256(os.fsencode(path)).digest()
            percentiles[str(path)] = int.from_bytes(digest[:8], "big") % 100
        return percentiles

    def file_of(self, item: str) -> Path:
        return Path(item)

    def open_image(self, item: str) -> Image.Image:
        return Image.open(item)


@source_class
class CelebA(DecodedSource):
    """Aligned CelebA images (Liu et al. 2015), 178 x 218 px, in the official splits.

    Args:
        root: Directory with img_align_celeba/ (or img_align_celeba.zip, which is read in place)
            and list_eval_partition.txt (or .csv).  The folder may be nested in one of its name.
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        crop: Side of the central square divided by 178 px.  The default is the crop of the
            DCGAN papers, 108 px.
        download: Whether torchvision may download missing files into `root`.

    Raises:
        FileNotFoundError: If the files are missing.
        ValueError: If list_eval_partition.txt has an invalid line, or the zip file is damaged.
    """

    kind = "celeba"

    root: Text
    image_size: ImageSize = 64
    channels: Channels = 3
    crop: CropShare = 108 / 178
    download: bool = False

    def __post_init__(self) -> None:
        folder = self.folder / "img_align_celeba"
        self.archive = self.folder / "img_align_celeba.zip"
        if self.download and not (
            self._partition_file and (folder.is_dir() or self.archive.is_file())
        ):
            self._download()
        partition = self._partition_file
        if not partition or not (folder.is_dir() or self.archive.is_file()):
            raise FileNotFoundError(
                f"data.root={self.root}: CelebA not found. Put img_align_celeba.zip (or the folder "
                "img_align_celeba/ unzipped from it) and list_eval_partition.txt there, both from "
                "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, or set data.download=true"
            )
        self.images = unnested(folder) if folder.is_dir() else self._archived_images()
        text = partition.read_text("utf-8", "surrogateescape").replace(",", " ")
        lines = [line.split() for line in text.splitlines() if line]
        self.partition = lines[1:] if lines[:1] == [["image_id", "partition"]] else lines
        for words in self.partition:
            # The list is untrusted and must not lead to other directories.
            if len(words) != 2 or "/" in words[0]:
                raise ValueError(
                    f"{partition}: invalid line {show(' '.join(words))}. Each line needs the name "
                    "of a file in img_align_celeba/ and 0, 1 or 2"
                )

    @property
    def _partition_file(self) -> Path | None:
        """List of the splits; the archive of Kaggle has it as CSV."""
        files = (self.folder / f"list_eval_partition.{suffix}" for suffix in ("txt", "csv"))
        return next((file for file in files if file.is_file()), None)

    def _archived_images(self) -> zipfile.Path:
        """Return the folder of the images in the zip file."""
        try:
            images = zipfile.Path(self.archive) / "img_align_celeba"
        except Exception as error:  # zipfile raises errors of many types for broken files
            raise ValueError(
                f"data.root={self.root}: {self.archive.name} is not a complete zip file ({error}). "
                "Download it again"
            ) from error
        nested = images / "img_align_celeba"
        images = nested if nested.is_dir() else images
        if not images.is_dir():
            raise ValueError(
                f"data.root={self.root}: {self.archive.name} has no folder img_align_celeba/. "
                "Download the archive of the aligned images of CelebA"
            )
        return images

    def _download(self) -> None:
        from torchvision.datasets import CelebA as TorchvisionCelebA  # slow to import

        if self.folder.name != "celeba":
            raise ValueError(
                "data.download=true: torchvision downloads into a folder named celeba. "
                f"Set data.root={self.folder / 'celeba'}"
            )
        import_extra("gdown", "data.download=true", "gdown", "download")
        try:
            TorchvisionCelebA(str(self.folder.parent), download=True)
        except Exception as error:  # errors of many types, also if the server sends a web page
            why = error or type(error).__name__
            raise ValueError(
                f"data.download=true: CelebA cannot be downloaded ({why}). "
                f"Download it by hand to data.root={self.root}"
            ) from error

    def items(self, split: str) -> list[str]:
        """Return the file names of the official split, in the order of the partition file."""
        return [name for name, code in self.partition if code == CELEBA_SPLITS[split]]

    def file_of(self, item: str) -> Path:
        return self.images / item if isinstance(self.images, Path) else self.archive

    def open_image(self, item: str) -> Image.Image:
        return Image.open((self.images / item).open("rb"))


@source_class
class Cars(PartitionedSource):
    """Stanford Cars (Krause et al. 2013), cropped to bounding boxes (Yeh et al. 2017, section 4).

    As in the paper, the resize stretches each box to a square.

    Args:
        root: Directory with cars_train/, cars_test/ and devkit/, which holds
            cars_train_annos.mat and cars_test_annos.mat.
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        cut: Whether the images are already cropped to their boxes.  Then devkit/ is not read,
            and without cars_test/ the test split is one training image in 20.

    Raises:
        FileNotFoundError: If files are missing.
        ModuleNotFoundError: If SciPy, which reads the boxes, is not installed.
        ValueError: If an annotation file is invalid.
    """

    kind = "cars"
    crop = 1.0  # of the box
    train, val = "train", None

    root: Text
    image_size: ImageSize = 64
    channels: Channels = 3
    cut: bool = False

    def __post_init__(self) -> None:
        self.test = None if self.cut and not (self.folder / "cars_test").is_dir() else "test"
        read = self._full_images if self.cut else self._annotated_boxes
        # (left, top, right, bottom) in px by name below root; None is the full image
        self.boxes = read("train") | (read("test") if self.test else {})

    def _full_images(self, part: str) -> dict[str, tuple[int, ...] | None]:
        folder = unnested(self.folder / f"cars_{part}")
        if not folder.is_dir():
            raise FileNotFoundError(
                f"data.root={self.root}: Stanford Cars not found. Put {folder.name}/ there"
            )
        return {f"{folder.name}/{path.relative_to(folder)}": None for path in list_images(folder)}

    def _annotated_boxes(self, part: str) -> dict[str, tuple[int, ...] | None]:
        scipy_io = import_extra("scipy.io", "data=cars", "SciPy", "mat")
        file = unnested(self.folder / "devkit") / f"cars_{part}_annos.mat"
        if not file.is_file() or not (self.folder / f"cars_{part}").is_dir():
            raise FileNotFoundError(
                f"data.root={self.root}: Stanford Cars not found. Put cars_{part}/ and "
                f"devkit/{file.name} there"
            )
        sides = [f"bbox_{side}" for side in ("x1", "y1", "x2", "y2")]
        try:  # loadmat reads arrays only and executes nothing
            rows = scipy_io.loadmat(file, squeeze_me=True)["annotations"].reshape(-1)
            boxes = {str(row["fname"]): tuple(int(row[side]) for side in sides) for row in rows}
        except Exception as error:  # SciPy raises errors of many types for broken files
            raise ValueError(f"{file}: expected a list of cars and boxes ({error})") from error
        for name, (left, top, right, bottom) in boxes.items():
            # The list is untrusted and must not lead to other directories.
            if "/" in name or not 1 <= left < right or not 1 <= top < bottom:
                raise ValueError(
                    f"{file}: {name!r:.80}, {boxes[name]}: expected a file name and a box"
                )
        # The annotations count from 1 and include the last pixel.
        return {
            f"cars_{part}/{name}": (left - 1, top - 1, right, bottom)
            for name, (left, top, right, bottom) in boxes.items()
        }

    def names(self, part: str | None) -> list[str]:
        return [name for name in self.boxes if name.startswith(f"cars_{part}/")]

    def file_of(self, item: str) -> Path:
        part, _, name = item.partition("/")
        return unnested(self.folder / part) / name

    def open_image(self, item: str) -> Image.Image:
        with Image.open(self.file_of(item)) as image:
            left, top, right, bottom = self.boxes[item] or (0, 0, *image.size)
            if right > image.width or bottom > image.height:
                raise ValueError(f"the box {self.boxes[item]} is not inside the image")
            car = to_rgb_or_gray(image, self.channels).crop((left, top, right, bottom))
        return car.resize((self.image_size, self.image_size), Image.Resampling.BICUBIC)

    def settings(self) -> dict:
        files = unnested(self.folder / "devkit").glob("cars_*_annos.mat")
        return super().settings() | {"cut": self.cut, "files": hash_files(files)}


@source_class
class TarShards(PartitionedSource):
    """Images in the tar files of WebDataset, in order; other members are skipped.

    Images are decoded from their position in the file.

    Args:
        urls: Paths of the tar files that are trained on.  A range {000..099} is expanded, and
            * and ? are globs.
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        crop: Side of the central square divided by the short side.
        val_urls, test_urls: Paths of the tar files for validation and testing.
        cache_limit: Size in GB above which the training split is streamed.

    Raises:
        FileNotFoundError: If a path matches no file.
        ValueError: If a file is not an uncompressed tar file.
    """

    kind = "webdataset"
    part_options = {"train": "urls", "val": "val_urls", "test": "test_urls"}

    urls: Text
    image_size: ImageSize = 64
    channels: Channels = 3
    crop: CropShare = 1.0
    val_urls: Text | None = None
    test_urls: Text | None = None
    cache_limit: Positive | None = None

    def __post_init__(self) -> None:
        self.tars = {
            part: find_tars(part, f"data.{self.part_options[split]}")
            for split, part in self.parts.items()
            if part is not None
        }

    @cached_property
    def members(self) -> dict[str, dict[str, TarMember]]:
        """Images of each part by name, found by reading all tar headers once."""
        return {part: dict(image_members(tars)) for part, tars in self.tars.items()}

    def names(self, part: str | None) -> list[str]:
        return list(self.members[part or ""])

    def open_image(self, item: str) -> Image.Image:
        member = self._member(item)
        with member.tar.open("rb") as file:
            file.seek(member.offset)
            return Image.open(io.BytesIO(file.read(member.size)))

    def shard(self, item: str) -> str:
        return str(self._member(item).tar)

    def file_of(self, item: str) -> None:
        """Return None: `settings` has a hash of the tar files."""

    def _member(self, item: str) -> TarMember:
        return next(members[item] for members in self.members.values() if item in members)

    def settings(self) -> dict:
        files = {tar.resolve() for tars in self.tars.values() for tar in tars}
        return super().settings() | {"files": hash_files(files)}

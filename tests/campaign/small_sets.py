"""Small data sets in published formats, and a custom source, model and method, for the tests."""

import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image
from torch import Tensor

from dcgan_inpaint.configs import checked
from dcgan_inpaint.data.decoding import Channels, ImageSize
from dcgan_inpaint.data.faces.source import Faces
from dcgan_inpaint.models.dcgan import DCGAN


class Few(Faces):
    """A custom source of eight images."""

    @checked
    def __init__(self, image_size: ImageSize = 64, channels: Channels = 3):
        super().__init__(image_size, channels, train_size=4, val_size=2, test_size=2)


class Brightest:
    """A custom method of completion: the brightest level of each channel."""

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        return known.amax((2, 3), keepdim=True).expand_as(known)


class Little(DCGAN):
    """A custom model."""

    def __init__(self, image_size: int = 64, channels: int = 3, crop: float = 1.0):
        shape = {"image_size": image_size, "channels": channels, "crop": crop}
        super().__init__(**shape, z_dim=5, gf_dim=1, df_dim=1)


def noise(*shape: int) -> np.ndarray:
    """Return uint8 noise of a shape, the same at each call."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def write_svhn(root: Path, **parts: np.ndarray) -> None:
    """Write an SVHN of images (N, 32, 32, 3) by part.

    torchvision reads the files only if their checksums are in its SVHN.split_list.
    """
    for part, images in parts.items():
        labels = np.arange(len(images), dtype=np.uint8)[:, None] % 10 + 1
        content = {"X": images.transpose(1, 2, 3, 0), "y": labels}
        scipy.io.savemat(root / f"{part}_32x32.mat", content)


def write_fashion_mnist(root: Path, train: np.ndarray, test: np.ndarray) -> None:
    """Write a FashionMNIST of images (N, 28, 28) in the idx format of MNIST."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, images in (("train", train), ("t10k", test)):
        labels = np.zeros(len(images), np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(
                f">{array.ndim}I", *array.shape
            )
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


def write_cifar10(root: Path, **batches: np.ndarray) -> Path:
    """Write a CIFAR10 of images (N, 3, 32, 32) by file name and return its folder.

    torchvision reads the files only if their checksums are in its CIFAR10.train_list and test_list.
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, images in batches.items():
        batch = {"data": images.reshape(-1, 3072), "labels": [0] * len(images)}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    return folder


def write_tar(tar: Path, members: dict[str, bytes]) -> None:
    """Write an uncompressed tar file of members in the given order, like WebDataset."""
    with tarfile.open(tar, "w") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))


def write_parquet(file: Path, images: list[bytes], column: str = "image") -> None:
    """Write a parquet file of image bytes and labels, like the Hugging Face Hub."""
    import pyarrow  # extra [huggingface]
    from pyarrow import parquet

    stored = [{"bytes": each, "path": f"{i}.png"} for i, each in enumerate(images)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    columns = {column: pyarrow.array(stored, kind), "label": list(range(len(images)))}
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.table(columns), file)


def png(levels: np.ndarray) -> bytes:
    """Return the PNG file of an image (H, W) or (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


def write_cars(root: Path, **parts: int) -> None:
    """Write Stanford Cars with a number of images per part, green and 60 x 40 px.

    Inside its box (10, 5, 50, 15), image i is brown on the left and beige, with blue i, on the
    right."""
    sides = [(f"bbox_{side}", "u1") for side in ("x1", "y1", "x2", "y2")]
    (root / "devkit").mkdir()
    for part, count in parts.items():
        (root / f"cars_{part}").mkdir()
        rows = np.zeros((1, count), [*sides, ("fname", object)])
        for i in range(count):
            image = Image.new("RGB", (60, 40), "green")
            image.paste((100, 50, 0), (10, 5, 30, 15))
            image.paste((200, 150, i), (30, 5, 50, 15))
            name = f"{i + 1:05d}.png"  # lossless
            image.save(root / f"cars_{part}" / name)
            rows[0, i] = (11, 6, 50, 15, name)  # counts from 1 and includes the last pixel
        scipy.io.savemat(root / "devkit" / f"cars_{part}_annos.mat", {"annotations": rows})

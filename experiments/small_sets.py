"""Public sets of pictures in small, each in its own format: what tests and campaigns read."""

import pickle
import struct
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image


def noise(*shape: int) -> np.ndarray:
    """Levels of that shape, uint8, the same at each call."""
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def write_svhn(root: Path, **parts: np.ndarray) -> None:
    """SVHN: pictures (N, 32, 32, 3) by the name of their part.

    torchvision reads them where their checksums are in its SVHN.split_list alone.
    """
    for part, pictures in parts.items():
        labels = np.arange(len(pictures), dtype=np.uint8)[:, None] % 10 + 1
        content = {"X": pictures.transpose(1, 2, 3, 0), "y": labels}
        scipy.io.savemat(root / f"{part}_32x32.mat", content)


def write_fashion_mnist(root: Path, train: np.ndarray, test: np.ndarray) -> None:
    """FashionMNIST: pictures (N, 28, 28), in the idx format of MNIST."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, pictures in (("train", train), ("t10k", test)):
        labels = np.zeros(len(pictures), np.uint8)
        for name, array in (("images-idx3", pictures), ("labels-idx1", labels)):
            head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(
                f">{array.ndim}I", *array.shape
            )
            (folder / f"{part}-{name}-ubyte").write_bytes(head + array.tobytes())


def write_cifar10(root: Path, **batches: np.ndarray) -> Path:
    """CIFAR10: pictures (N, 3, 32, 32) by the name of their file; gives the folder of these.

    torchvision reads them where their checksums are in its CIFAR10.train_list and test_list alone.
    """
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name, pictures in batches.items():
        batch = {"data": pictures.reshape(-1, 3072), "labels": [0] * len(pictures)}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["a"]}))
    return folder


def write_cars(root: Path, **parts: int) -> None:
    """Stanford Cars: so many pictures a part, 60 x 40 px, green; inside its box (10, 5, 50, 15)
    picture i is brown left and beige, with blue i, right."""
    sides = [(f"bbox_{side}", "u1") for side in ("x1", "y1", "x2", "y2")]
    (root / "devkit").mkdir()
    for part, count in parts.items():
        (root / f"cars_{part}").mkdir()
        rows = np.zeros((1, count), [*sides, ("fname", object)])
        for i in range(count):
            picture = Image.new("RGB", (60, 40), "green")
            picture.paste((100, 50, 0), (10, 5, 30, 15))
            picture.paste((200, 150, i), (30, 5, 50, 15))
            name = f"{i + 1:05d}.png"  # without loss
            picture.save(root / f"cars_{part}" / name)
            rows[0, i] = (11, 6, 50, 15, name)  # counted from 1, the last inside
        scipy.io.savemat(root / "devkit" / f"cars_{part}_annos.mat", {"annotations": rows})

"""Do feature_distance and fd_efflite0 see what an eye sees?

python experiments/features.py data=celeba data.root=path/to/celeba --grids runs/train/*/samples/*

Takes what sample.py takes (data=..., split=val by default).  The first `--count` images are
shifted, blurred, made noisy and compressed, each more and more: for each strength it prints PSNR,
feature distance to the untouched image, the share of images whose distance is larger than at
the strength before, and the Fréchet distance to the next `--count` images, the first row's being
that of untouched ones, the floor.  `--grids` are full grids of samples that train.py or sample.py
wrote: the Fréchet distance of each to the same.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from dcgan_inpaint.data.loader import ImageData
from dcgan_inpaint.images import to_float, to_pil, to_uint8
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import (
    CHUNK,
    EffLite0,
    Features,
    fd_efflite0,
    feature_distance,
    frechet_distance,
    load_efflite0,
)
from dcgan_inpaint.randomness import normal

PROJECT = Path(__file__).parents[1]


def blur(images: Tensor, index: Tensor, sigma: float) -> Tensor:
    """Gaussian of `sigma` px."""
    side = 2 * round(3 * sigma) + 1
    return gaussian_blur(images, [side, side], [sigma, sigma])


def noise(images: Tensor, index: Tensor, sigma: float) -> Tensor:
    """Gaussian, of a standard deviation of `sigma` of 255 levels."""
    draws = normal("noise", 0, index, images[0].numel()).view_as(images)
    return images + sigma / 127.5 * draws


def jpeg(images: Tensor, index: Tensor, quality: int) -> Tensor:
    decoded = []
    for image in images:  # a file each
        file = io.BytesIO()
        to_pil(image).save(file, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(file)))
    return to_float(np.stack(decoded).transpose(0, 3, 1, 2))


def shift(images: Tensor, index: Tensor, pixels: int) -> Tensor:
    """To the right; the left column is repeated."""
    width = images.shape[-1]
    return F.pad(images, (pixels, 0, 0, 0), mode="replicate")[..., :width]


STRENGTHS: dict[Callable, tuple[float, ...]] = {  # weakest first; the first changes nothing
    shift: (0, 1, 2),
    blur: (0.4, 0.7, 1.0, 1.5, 2.5),
    noise: (4, 8, 16, 32, 64),
    jpeg: (90, 70, 50, 30, 10),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="as for sample.py")
    parser.add_argument("--count", type=int, default=512, help="images")
    parser.add_argument("--grids", type=Path, nargs="*", default=[], help="samples as PNG files")
    arguments = parser.parse_args()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        cfg = compose("sample", ["split=val", *arguments.overrides])
    data = ImageData(instantiate(cfg.data), cfg.cache_dir)
    images = data.split(cfg.split).images[: 2 * arguments.count]  # (2N, C, S, S) uint8
    ours, others = np.array_split(images, 2)
    network = load_efflite0(images.shape[-1])
    print(f"{len(ours)} images against {len(others)} others\n")
    print("| | strength | PSNR, dB | feature_distance | rises | fd_efflite0 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in distorted(ours, others, network):
        print(f"| {' | '.join(row)} |", flush=True)
    if arguments.grids:
        print("\n| grid | samples | fd_efflite0 |\n| --- | --- | --- |")
    for path in arguments.grids:
        samples = cut(path, images.shape[-1])
        distance = fd_efflite0(samples, others, network)
        print(f"| {path.name} | {len(samples)} | {distance:.1f} |", flush=True)


def distorted(ours: np.ndarray, others: np.ndarray, network: EffLite0) -> Iterator[list[str]]:
    """The rows of the table."""
    reference = torch.cat([seen.pooled for _, seen in look(others, network)])  # (M, 1280)
    changes = [(change, strength) for change, some in STRENGTHS.items() for strength in some]
    found: list[list[tuple[Tensor, ...]]] = [[] for _ in changes]
    chunks = zip(torch.arange(len(ours)).split(CHUNK), look(ours, network), strict=True)
    for index, (truth, seen) in chunks:
        for (change, strength), parts in zip(changes, found, strict=True):
            changed = to_float(to_uint8(change(truth, index, strength)).numpy())
            now = network(changed)
            parts.append((psnr(changed, truth), feature_distance(now, seen), now.pooled))
    before, last = torch.zeros(len(ours)), None
    for (change, strength), parts in zip(changes, found, strict=True):
        decibels, distance, pooled = (torch.cat(column) for column in zip(*parts, strict=True))
        rises = f"{(distance > before).float().mean():.1%}" if change is last else ""
        yield [
            change.__name__,
            f"{strength}",
            f"{decibels.mean():.1f}",
            f"{distance.mean():.3f}",
            rises,
            f"{frechet_distance(pooled, reference):.1f}",
        ]
        before, last = distance, change


def look(images: np.ndarray, network: EffLite0) -> Iterator[tuple[Tensor, Features]]:
    """Images (N, C, S, S) uint8 by chunks, as floats and as the network sees them."""
    for start in range(0, len(images), CHUNK):
        some = to_float(images[start : start + CHUNK])
        yield some, network(some)


def cut(path: Path, side: int) -> np.ndarray:
    """The images (N, 3, S, S) of a grid file as images.grid lays them out."""
    with Image.open(path) as file:
        sheet = np.asarray(file.convert("RGB")).transpose(2, 0, 1)  # (3, H, W)
    cells = sheet[:, 2:, 2:].reshape(3, sheet.shape[1] // (side + 2), side + 2, -1, side + 2)
    return cells[:, :, :side, :, :side].transpose(1, 3, 0, 2, 4).reshape(-1, 3, side, side)


if __name__ == "__main__":
    main()

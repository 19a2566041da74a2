"""Check that feature_distance and fd_efflite0 respond to distortions as a viewer does.

python experiments/features.py data=celeba data.root=path/to/celeba --grids runs/train/*/samples/*

Accepts the overrides of sample.py (split=val by default).  The script distorts the first `--count`
images by shift, blur, noise and JPEG compression of increasing strength.  For each strength it
prints the PSNR, the feature distance to the original image, the share of images whose distance is
larger than at the previous strength, and the Fréchet distance to the next `--count` images.  The
first row is of undistorted images and shows the offset of the Fréchet distance.  `--grids` are
complete grids of samples that train.py or sample.py wrote; the script prints the Fréchet distance
of each to the same images.
"""

import argparse
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from common import markdown_row
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import gaussian_blur

from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.images import to_float, to_pil, to_uint8
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import FEATURE_BATCH, load_efflite0, pooled_features
from dcgan_inpaint.metrics.sets import frechet_distance
from dcgan_inpaint.models.efficientnet import EfficientNetLite, Features, feature_distance
from dcgan_inpaint.randomness import normal

HEADER = ("distortion", "strength", "PSNR, dB", "feature_distance", "increases", "fd_efflite0")


def blur(images: Tensor, index: Tensor, sigma: float) -> Tensor:
    """Blur images (B, C, S, S) by a Gaussian of `sigma` px."""
    side = 2 * round(3 * sigma) + 1
    return gaussian_blur(images, [side, side], [sigma, sigma])


def noise(images: Tensor, index: Tensor, sigma: float) -> Tensor:
    """Add Gaussian noise with a standard deviation of `sigma` levels of 255."""
    samples = normal("noise", 0, index, images[0].numel()).view_as(images)
    return images + sigma / 127.5 * samples


def jpeg(images: Tensor, index: Tensor, quality: int) -> Tensor:
    """Compress each image (C, S, S) to JPEG and decode it."""
    decoded = []
    for image in images:
        file = io.BytesIO()
        to_pil(image).save(file, "JPEG", quality=quality)
        decoded.append(np.asarray(Image.open(file)))
    return to_float(np.stack(decoded).transpose(0, 3, 1, 2))


def shift(images: Tensor, index: Tensor, pixels: int) -> Tensor:
    """Shift images to the right by `pixels`, and repeat the left column."""
    width = images.shape[-1]
    return F.pad(images, (pixels, 0, 0, 0), mode="replicate")[..., :width]


# Distortions with their strengths, weakest first.  A shift by 0 px changes nothing.
STRENGTHS: dict[Callable, tuple[float, ...]] = {
    shift: (0, 1, 2),
    blur: (0.4, 0.7, 1.0, 1.5, 2.5),
    noise: (4, 8, 16, 32, 64),
    jpeg: (90, 70, 50, 30, 10),
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="overrides of sample.py")
    parser.add_argument("--count", type=int, default=512, help="images to distort")
    parser.add_argument("--grids", type=Path, nargs="*", default=[], help="PNG files of samples")
    arguments = parser.parse_args()
    cfg = compose_config("sample", ["split=val", *arguments.overrides])
    data = ImageDataModule(instantiate(cfg.data), cfg.cache_dir)
    images = data.split(cfg.split).images[: 2 * arguments.count]  # (2N, C, S, S) uint8
    originals, others = np.array_split(images, 2)
    network = load_efflite0(images.shape[-1])
    print(f"{format_count(len(originals), 'image')} against {format_count(len(others), 'other')}\n")
    print(markdown_row(HEADER) + "\n" + markdown_row(["---"] * len(HEADER)))
    for row in distortion_rows(originals, others, network):
        print(markdown_row(row), flush=True)
    if arguments.grids:
        reference = pooled_features(others, network)  # (N, 1280)
        print("\n| grid | samples | fd_efflite0 |\n| --- | --- | --- |")
    for path in arguments.grids:
        samples = read_grid(path, images.shape[-1])
        distance = frechet_distance(pooled_features(samples, network), reference)
        print(f"| {path.name} | {len(samples)} | {distance:.1f} |", flush=True)


def distortion_rows(
    originals: np.ndarray, others: np.ndarray, network: EfficientNetLite
) -> Iterator[list[str]]:
    """Yield a row of the table per distortion and strength.

    Args:
        originals: images to distort (N, C, S, S) uint8.
        others: images to compare the set with (M, C, S, S) uint8.
        network: the feature network.
    """
    reference = pooled_features(others, network)  # (M, 1280)
    settings = [(distort, s) for distort, strengths in STRENGTHS.items() for s in strengths]
    results: list[list[tuple[Tensor, ...]]] = [[] for _ in settings]
    indices = torch.arange(len(originals)).split(FEATURE_BATCH)
    for index, (truth, features) in zip(indices, extract(originals, network), strict=True):
        for (distort, strength), parts in zip(settings, results, strict=True):
            distorted = to_float(to_uint8(distort(truth, index, strength)).numpy())
            new = network(distorted)
            parts.append((psnr(distorted, truth), feature_distance(new, features), new.pooled))
    previous_distance, previous = torch.zeros(len(originals)), None
    for (distort, strength), parts in zip(settings, results, strict=True):
        decibels, distance, pooled = (torch.cat(column) for column in zip(*parts, strict=True))
        increases = f"{(distance > previous_distance).float().mean():.1%}"
        yield [
            distort.__name__,
            f"{strength}",
            f"{decibels.mean():.1f}",
            f"{distance.mean():.3f}",
            increases if distort is previous else "",
            f"{frechet_distance(pooled, reference):.1f}",
        ]
        previous_distance, previous = distance, distort


def extract(images: np.ndarray, network: EfficientNetLite) -> Iterator[tuple[Tensor, Features]]:
    """Yield chunks of images (N, C, S, S) uint8 as floats in [-1, 1], with their features."""
    for start in range(0, len(images), FEATURE_BATCH):
        chunk = to_float(images[start : start + FEATURE_BATCH])
        yield chunk, network(chunk)


def read_grid(path: Path, side: int) -> np.ndarray:
    """Read the images (N, 3, S, S) uint8 of a file that images.grid made, of side `side` px."""
    with Image.open(path) as file:
        sheet = np.asarray(file.convert("RGB")).transpose(2, 0, 1)  # (3, H, W)
    cells = sheet[:, 2:, 2:].reshape(3, sheet.shape[1] // (side + 2), side + 2, -1, side + 2)
    return cells[:, :, :side, :, :side].transpose(1, 3, 0, 2, 4).reshape(-1, 3, side, side)


if __name__ == "__main__":
    main()

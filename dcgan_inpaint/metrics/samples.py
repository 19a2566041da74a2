"""Metrics of a set of samples against a set of real images.

A set of images (N, C, S, S) is a uint8 tensor, a float tensor in [-1, 1], or a uint8 array that may
be a memory map larger than memory.  The metrics use 8-bit levels and process the images in chunks
on the CPU.  They depend on the number of images: compare values of sets of the same size only.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from tqdm import tqdm

from dcgan_inpaint.errors import format_count, import_extra
from dcgan_inpaint.files import load_weights
from dcgan_inpaint.images import to_uint8
from dcgan_inpaint.metrics.features import load_efflite0, pooled_features
from dcgan_inpaint.metrics.sets import Interval, compare_sets
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.models.efficientnet import EfficientNetLite
from dcgan_inpaint.randomness import normal, uniform

# The numbers of the code of Karras 2018.
COARSEST = 16  # px, side of the lowest level of the pyramid
PATCH = 7  # px, side of a patch
PATCHES = 128  # per sample
DIRECTIONS = 4 * 128  # of the projections

DIRECTION_BLOCK = 32  # directions at a time; bounds the memory of the projections
IMAGE_CHUNK = 256  # images at a time; bounds the memory of a pyramid
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # MS-SSIM, finest first (Wang 2003)
FID_FILE = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
FID_BATCH = 32  # images at a time; Inception enlarges them to 299 px

ImageSet = Tensor | np.ndarray
Metrics = dict[str, Interval]  # by name


@torch.no_grad()
def sample_metrics(
    gan: LatentGAN,
    real: ImageSet,
    count: int = 4096,
    seed: int = 0,
    ema: bool = True,
    more: Sequence[Callable[[ImageSet, ImageSet], Metrics]] = (),
    bar: bool = False,
) -> Metrics:
    """Compare samples of a GAN with real images.

    Args:
        gan: Trained GAN.
        real: Real images, (N, C, S, S).
        count: Number of samples.
        seed: Seed of the latents and the patches.
        ema: Use the averaged generator; False uses the raw one.
        more: Further metrics of (samples, real images).
        bar: Show a progress bar.

    Returns:
        The sliced Wasserstein distances swd_16, swd_32, ... and their mean swd, and the mean
        similarity ms_ssim within the samples and ms_ssim_real within the real images, without
        intervals; and `more`.

    Raises:
        ValueError: If there are fewer than two samples or images, or if their shapes differ.
    """
    if min(count, len(real)) < 2:
        raise ValueError(
            f"{format_count(count, 'sample')} and {format_count(len(real), 'real image')} are too "
            "few. Use 2 or more of each"
        )
    if (shape := tuple(real.shape[1:])) != gan.image_shape:
        raise ValueError(
            f"real images have shape {shape}, but samples have shape {gan.image_shape}"
        )
    index = torch.arange(count, device=gan.device)
    chunks = index.split(IMAGE_CHUNK)
    fake = torch.cat([to_uint8(gan(gan.latents(chunk, seed), ema)) for chunk in chunks])
    swd = sliced_wasserstein(fake, real, seed, bar)
    values = {f"swd_{side}": distance for side, distance in swd.items()}
    values["swd"] = sum(swd.values()) / len(swd)
    values["ms_ssim"] = similarity(fake)
    values["ms_ssim_real"] = similarity(real)
    metrics = {name: without_interval(value) for name, value in values.items()}
    for metric in more:
        metrics |= metric(fake, real)
    return metrics


def without_interval(value: float) -> Interval:
    return value, math.nan, math.nan


def sliced_wasserstein(
    fake: ImageSet, real: ImageSet, seed: int = 0, bar: bool = False
) -> dict[int, float]:
    """Return the sliced Wasserstein distance of 7x7 patches at each level of a Laplacian pyramid.

    It uses 128 patches of each sample, as many patches of the real images in total, and 512
    directions (Karras 2018, section 5).  Each channel of each set is normalized, so the metric
    ignores the brightness, contrast and tint of a whole set.

    Args:
        fake: Samples, (N, C, S, S).
        real: Real images, (M, C, S, S).
        seed: Seed of the patches and directions.
        bar: Show a progress bar.

    Returns:
        The distances times 1000 by side, {16: ..., 32: ..., S: ...}; 0 for equal sets.

    Raises:
        ValueError: If the shapes differ, or the sides are not a power of two of at least 16.
    """
    if fake.shape[1:] != real.shape[1:]:
        shapes = [tuple(images.shape[1:]) for images in (fake, real)]
        raise ValueError(f"samples have shape {shapes[0]}, but real images {shapes[1]}")
    size = fake.shape[-1]
    if fake.shape[-2] != size or size < COARSEST or size & (size - 1):
        raise ValueError(
            f"images of shape {tuple(fake.shape[1:])}: expected square images with a side of "
            f"{COARSEST} px or a larger power of two"
        )
    count = PATCHES * len(fake)
    columns, distances = fake.shape[1] * PATCH**2, {}
    sides = [COARSEST << k for k in range((size // COARSEST).bit_length())]
    # One level at a time, since the patches of a level take 600 MB.
    for side in tqdm(sides, "comparing samples", unit="level", leave=False, disable=not bar):
        a, b = (_descriptors(images, side, count, seed) for images in (fake, real))
        directions = normal(f"directions {side}", seed, torch.arange(DIRECTIONS), columns)
        distances[side] = 1000 * _wasserstein(a, b, F.normalize(directions))
    return distances


def laplacian_pyramid(images: Tensor) -> dict[int, Tensor]:
    """Return the levels {16: (B, C, 16, 16), 32: ..., S: ...} of float images (B, C, S, S).

    The 16 px level is the image after blurring and subsampling.  Each other level is the detail
    that the level below cannot represent, so the image is the sum of the upsampled levels
    (Burt & Adelson 1983).
    """
    pyramid, side = {}, images.shape[-1]
    while side > COARSEST:
        smaller = _blur(images, stride=2)  # (B, C, side/2, side/2)
        pyramid[side] = images - upsample(smaller)  # (B, C, side, side)
        images, side = smaller, side // 2
    return {side: images} | dict(reversed(pyramid.items()))


def upsample(images: Tensor) -> Tensor:
    """Double the size with the binomial filter: (B, C, H, W) -> (B, C, 2H, 2W)."""
    batch, channels, height, width = images.shape
    spaced = images.new_zeros(batch, channels, 2 * height, 2 * width)
    spaced[..., ::2, ::2] = images
    return 4 * _blur(spaced)  # only one pixel in four is nonzero


def _blur(images: Tensor, stride: int = 1) -> Tensor:
    """Apply a 5x5 binomial filter with reflected borders: (B, C, H, W) -> the same / stride."""
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    planes = F.pad(images.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect")
    planes = F.conv2d(planes, torch.outer(binomial, binomial)[None, None], stride=stride)
    return planes.squeeze(1).unflatten(0, images.shape[:2])


def _descriptors(images: ImageSet, side: int, count: int, seed: int) -> Tensor:
    """Return `count` normalized patches of a level of the images, (count, C · 49).

    Patch j belongs to image j · N / count, at a position that depends on (seed, j) only.  So both
    sets are sampled at the same positions, and equal sets have equal patches.
    """
    j = torch.arange(count)
    owner = j * len(images) // count  # (count,), ascending
    row, column = (uniform(f"patches {side}", seed, j, 2) * (side - PATCH + 1)).long().unbind(1)
    patches = torch.empty(count, images.shape[1], PATCH, PATCH)
    for start in range(0, len(images), IMAGE_CHUNK):
        end = start + IMAGE_CHUNK
        level = laplacian_pyramid(_as_uint8(images[start:end]).float())[side]
        windows = level.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (B, C, rows, columns, 7, 7)
        chunk = slice(*torch.searchsorted(owner, torch.tensor([start, end])).tolist())
        patches[chunk] = windows[owner[chunk] - start, :, row[chunk], column[chunk]]
    std, mean = torch.std_mean(patches, (0, 2, 3), correction=0, keepdim=True)  # (1, C, 1, 1)
    # The clamp keeps a level without content at 0.
    return patches.sub_(mean).div_(std.clamp_min(1e-6)).flatten(1)


def _wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Return the mean Wasserstein distance of a and b (count, D) along directions (K, D).

    In one dimension, the optimal transport pairs the sorted values.
    """
    total = 0.0
    for block in directions.split(DIRECTION_BLOCK):
        p, q = ((block @ points.T).numpy() for points in (a, b))  # (DIRECTION_BLOCK, count)
        # NumPy's vectorized sort is ten times faster than torch's on a CPU.
        p.sort(axis=1)
        q.sort(axis=1)
        total += float(np.abs(p - q).mean(1).sum())
    return total / len(directions)


def similarity(images: ImageSet) -> float:
    """Return the mean `ms_ssim` of pairs of images, one from each half of the set.

    It is 1 if all images are equal, and lower for a more diverse set (Odena 2017; Karras 2018).
    An odd last image is ignored.

    Raises:
        ValueError: If there are fewer than two images.
    """
    half = len(images) // 2
    if half < 1:
        raise ValueError(
            f"a set of {format_count(len(images), 'image')} has no pair. Use 2 or more images"
        )
    first, second = images[:half], images[half : 2 * half]
    chunks = [slice(start, start + IMAGE_CHUNK) for start in range(0, half, IMAGE_CHUNK)]
    return float(torch.cat([ms_ssim(first[chunk], second[chunk]) for chunk in chunks]).mean())


def ms_ssim(a: ImageSet, b: ImageSet) -> Tensor:
    """Return the multi-scale structural similarity of pairs of images, (B,) in [0, 1] (Wang 2003).

    As in the code of Karras 2018, the 11x11 window shrinks for small images, and a negative scale
    counts as 0.  torchmetrics requires more than 160 px.

    Raises:
        ValueError: If the shapes differ, or the images are smaller than 16 px.
    """
    shapes = tuple(a.shape), tuple(b.shape)
    if a.shape != b.shape or min(a.shape[-2:]) < 2 ** (len(SCALE_WEIGHTS) - 1):
        raise ValueError(f"images of shapes {shapes}: expected equal shapes of at least 16 px")
    a, b = _as_uint8(a).float(), _as_uint8(b).float()  # (B, C, H, W) in [0, 255]
    product = torch.ones(len(a))
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale > 0:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        luminance, contrast = _ssim_terms(a, b)  # (B, C, h, w) each
        if scale == len(SCALE_WEIGHTS) - 1:  # only the coarsest scale compares luminance
            contrast = luminance * contrast
        product *= contrast.mean((1, 2, 3)).clamp_min(0) ** weight  # (B,)
    return product


def _ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance and contrast-structure maps of windows inside the images.

    Wang 2004, eq. 6 and 13.  a, b (B, C, H, W) in [0, 255].
    """
    side = min(11, *a.shape[-2:])
    x = torch.arange(side) - (side - 1) / 2
    gaussian = torch.exp(-0.5 * (x / (1.5 * side / 11)) ** 2)
    gaussian /= gaussian.sum()
    maps = torch.stack([a, b, a * a, b * b, a * b])  # (5, B, C, H, W)
    planes = F.conv2d(maps.flatten(0, 2)[:, None], gaussian.view(1, 1, -1, 1))
    planes = F.conv2d(planes, gaussian.view(1, 1, 1, -1)).squeeze(1)
    mean_a, mean_b, aa, bb, ab = planes.unflatten(0, maps.shape[:3])  # (B, C, h, w) each
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2  # constants of Wang 2004
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    variances = aa - mean_a**2 + bb - mean_b**2
    return luminance, (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)


def load_inception(weights: str | Path) -> FrechetInceptionDistance:
    """Load the Inception network of FID from a local file; nothing is downloaded.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If torch-fidelity is not installed.
        ValueError: If the file does not contain the weights of Inception.
    """
    import_extra("torch_fidelity", "fid=", "torch-fidelity", "fid")
    # torch-fidelity could run code from the file, so it is checked first.
    load_weights("fid", weights, f"{FID_FILE}, from github.com/toshas/torch-fidelity/releases")
    try:  # antialias=False resizes to 299 px as the original TensorFlow code does
        return FrechetInceptionDistance(
            feature_extractor_weights_path=str(weights), antialias=False
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"fid={weights}: not Inception weights. Use {FID_FILE}") from error


@torch.no_grad()
def frechet_inception_distance(
    fake: ImageSet, real: ImageSet, inception: FrechetInceptionDistance
) -> float:
    """Return the Fréchet Inception distance of two sets of images (Heusel 2017).

    It is biased upward for a few thousand images; papers use 10,000 to 50,000.

    Args:
        fake: Samples, (N, C, S, S); a single channel is repeated.
        real: Real images, (M, C, S, S).
        inception: Result of `load_inception`, on the device to use.
    """
    inception.reset()
    for images, is_real in ((fake, False), (real, True)):
        for start in range(0, len(images), FID_BATCH):
            chunk = _as_uint8(images[start : start + FID_BATCH]).expand(-1, 3, -1, -1)
            inception.update(chunk.to(inception.device), real=is_real)
    return float(inception.compute())


def feature_metrics(
    fake: ImageSet, real: ImageSet, network: EfficientNetLite, seed: int = 0
) -> Metrics:
    """Return the metrics of `compare_sets` of two sets of uint8 images (N, C, S, S)."""
    pooled = [pooled_features(images, network) for images in (fake, real)]  # (N, FEATURE_DIM)
    return compare_sets(pooled[0], pooled[1], seed=seed)


def _as_uint8(images: ImageSet) -> Tensor:
    """Return images as a uint8 tensor on the CPU."""
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))  # a copy, since a memory map may be read-only
    return images.cpu() if images.dtype == torch.uint8 else to_uint8(images)


def load_network_metrics(
    fid: str | None, features: bool, image_size: int, seed: int
) -> list[Callable[..., Metrics]]:
    """Return the requested metrics of two sets of images that need a network.

    Args:
        fid: Path of the Inception weights, or None.
        features: Whether to load EfficientNet-Lite0.
        image_size: Side of the images in pixels.
        seed: Seed of the intervals.

    Raises:
        FileNotFoundError, ModuleNotFoundError, ValueError: As `load_inception` and
            `load_efflite0`.
    """
    metrics: list[Callable[..., Metrics]] = []
    if fid:
        distance = partial(frechet_inception_distance, inception=load_inception(fid))
        metrics.append(lambda fake, real: {"fid": without_interval(distance(fake, real))})
    if features:
        metrics.append(partial(feature_metrics, network=load_efflite0(image_size), seed=seed))
    return metrics

"""The samples of a generator, as a set, against real images.

Everywhere images are (N, C, S, S): a tensor, uint8 or float in [-1, 1], or an array of uint8 that
may be mapped from a file and larger than memory.  They are judged as uint8, a chunk at a time, on
the CPU.  Numbers depend on how many images there are: compare those of equal counts.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.image.fid import FrechetInceptionDistance
from tqdm import tqdm

from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.files import load_weights
from dcgan_inpaint.images import to_uint8
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.randomness import normal, uniform

COARSEST = 16  # px of the lowest level of the pyramid
PATCH = 7  # px
PATCHES = 128  # of each fake image
DIRECTIONS = 4 * 128
BLOCK = 32  # directions at a time
CHUNK = 256  # images at a time
SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of MS-SSIM, finest first (Wang 2003)
Images = Tensor | np.ndarray


@torch.no_grad()
def sample_metrics(
    gan: LatentGAN,
    real: Images,
    count: int = 4096,
    seed: int = 0,
    ema: bool = True,
    more: Mapping[str, Callable[[Images, Images], float]] | None = None,
    bar: bool = False,
) -> dict[str, float]:
    """Metrics of the first `count` samples of a seed against the images `real`, by name.

    swd_16, swd_32, ... and swd, their mean: sliced Wasserstein distance.  ms_ssim and, to compare
    with, ms_ssim_real: mean similarity within the samples and within the images.  And `more`,
    distances of the two sets by name.  `bar` shows how far it is.  Raises ValueError for less than
    two samples or images, and for images that are not of the model's size and channels.
    """
    if min(count, len(real)) < 2:
        raise ValueError(f"{count} samples and {len(real)} images: use 2 or more of each")
    if (shape := tuple(real.shape[1:])) != gan.image_shape:
        raise ValueError(f"the model makes images {gan.image_shape}, not {shape}")
    index = torch.arange(count, device=gan.device)
    fake = torch.cat([to_uint8(gan(gan.latents(i, seed), ema)) for i in index.split(CHUNK)])
    distances = sliced_wasserstein(fake, real, seed, bar)
    metrics = {f"swd_{side}": distance for side, distance in distances.items()}
    metrics["swd"] = sum(distances.values()) / len(distances)
    metrics["ms_ssim"] = similarity(fake)
    metrics["ms_ssim_real"] = similarity(real)
    for name, distance in (more or {}).items():
        metrics[name] = distance(fake, real)
    return metrics


def sliced_wasserstein(
    fake: Images, real: Images, seed: int = 0, bar: bool = False
) -> dict[int, float]:
    """Sliced Wasserstein distance x 1000 of 7x7 patches, per level of the Laplacian pyramid.

    Karras 2018 (progressive growing, section 5): {16: ..., 32: ..., S: ...}, of low frequencies
    first; 0 for equal sets.  128 patches of each fake image and as many of the real ones in all,
    drawn as `seed` says; 512 directions.  Each channel of each set is normalised, so brightness,
    contrast and tint of a whole set are not seen.  Raises ValueError for images of different
    shapes, and for sides that are no power of two from 16 on.
    """
    if fake.shape[1:] != real.shape[1:]:
        raise ValueError(f"fake {tuple(fake.shape[1:])} and real {tuple(real.shape[1:])} differ")
    size = fake.shape[-1]
    if fake.shape[-2] != size or size < COARSEST or size & (size - 1):
        raise ValueError(f"images {tuple(fake.shape[1:])}: use a power of two from {COARSEST} px")
    count = PATCHES * len(fake)
    columns, distances = fake.shape[1] * PATCH**2, {}
    sides = [COARSEST << k for k in range((size // COARSEST).bit_length())]
    # one level after the other: the patches of one fill 600 MB
    for side in tqdm(sides, "judging samples", unit="scale", leave=False, disable=not bar):
        a, b = (_descriptors(images, side, count, seed) for images in (fake, real))
        directions = normal(f"directions {side}", seed, torch.arange(DIRECTIONS), columns)
        distances[side] = 1000 * _wasserstein(a, b, F.normalize(directions))
    return distances


def laplacian_pyramid(images: Tensor) -> dict[int, Tensor]:
    """Float images (B, C, S, S) by frequency: {16: (B, C, 16, 16), 32: ..., S: ...}.

    Burt & Adelson 1983.  The level of 16 px is the image itself, blurred and made smaller; each
    other is what the one below cannot show, so that level + `upsample` of the levels below is the
    image again.
    """
    pyramid, side = {}, images.shape[-1]
    while side > COARSEST:
        smaller = _blur(images, stride=2)  # (B, C, side/2, side/2)
        pyramid[side] = images - upsample(smaller)  # (B, C, side, side)
        images, side = smaller, side // 2
    return {side: images} | dict(reversed(pyramid.items()))


def upsample(images: Tensor) -> Tensor:
    """Twice the side: (B, C, H, W) -> (B, C, 2H, 2W)."""
    batch, channels, height, width = images.shape
    spaced = images.new_zeros(batch, channels, 2 * height, 2 * width)
    spaced[..., ::2, ::2] = images
    return 4 * _blur(spaced)  # one pixel in four is not zero


def _blur(images: Tensor, stride: int = 1) -> Tensor:
    """The 5x5 binomial filter, mirrored at the borders: (B, C, H, W) -> the same / stride."""
    binomial = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    planes = F.pad(images.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect")
    planes = F.conv2d(planes, torch.outer(binomial, binomial)[None, None], stride=stride)
    return planes.squeeze(1).unflatten(0, images.shape[:2])


def _descriptors(images: Images, side: int, count: int, seed: int) -> Tensor:
    """`count` normalised patches of a level of the images: (count, C · 49).

    Patch j is of image j · N / count: evenly many of each, from places that follow from
    (seed, j) alone.  So both sets are looked at in the same places, and equal sets are equal here.
    """
    j = torch.arange(count)
    owner = j * len(images) // count  # (count,), ascending
    row, column = (uniform(f"patches {side}", seed, j, 2) * (side - PATCH + 1)).long().unbind(1)
    patches = torch.empty(count, images.shape[1], PATCH, PATCH)
    for start in range(0, len(images), CHUNK):
        level = laplacian_pyramid(_as_uint8(images[start : start + CHUNK]).float())[side]
        windows = level.unfold(2, PATCH, 1).unfold(3, PATCH, 1)  # (B, C, places, places, 7, 7)
        first, last = torch.searchsorted(owner, torch.tensor([start, start + CHUNK])).tolist()
        mine = slice(first, last)
        patches[mine] = windows[owner[mine] - start, :, row[mine], column[mine]]
    std, mean = torch.std_mean(patches, (0, 2, 3), correction=0, keepdim=True)  # (1, C, 1, 1)
    # a level without any content (flat images) stays 0
    return patches.sub_(mean).div_(std.clamp_min(1e-6)).flatten(1)


def _wasserstein(a: Tensor, b: Tensor, directions: Tensor) -> float:
    """Mean distance of the projections of a and b (count, D) on unit directions (K, D).

    In one dimension the best transport pairs the smallest with the smallest, and so on.
    """
    total = 0.0
    for block in directions.split(BLOCK):
        p, q = ((block @ points.T).numpy() for points in (a, b))  # (BLOCK, count)
        # numpy's sort uses vector instructions: ten times as fast as torch's on a CPU
        p.sort(axis=1)
        q.sort(axis=1)
        total += float(np.abs(p - q).mean(1).sum())
    return total / len(directions)


def similarity(images: Images) -> float:
    """How alike a set is: mean `ms_ssim` of pairs, the first half with the second half.

    1 when all are equal; lower is more diverse (Odena 2017; Karras 2018).  An odd last image is
    left out.  Raises ValueError for less than two images.
    """
    half = len(images) // 2
    if half < 1:
        raise ValueError(f"{len(images)} images make no pair: use 2 or more")
    chunks = [slice(start, min(start + CHUNK, half)) for start in range(0, half, CHUNK)]
    first, second = images[:half], images[half : 2 * half]
    return float(torch.cat([ms_ssim(first[some], second[some]) for some in chunks]).mean())


def ms_ssim(a: Images, b: Images) -> Tensor:
    """Multi-scale structural similarity (Wang 2003), (B,) in [0, 1]; from 16 px on.

    On small images the 11x11 Gaussian window shrinks with the scale, as in the code of Karras
    2018; torchmetrics refuses images of 160 px or less.  A negative scale counts as 0.  Raises
    ValueError for smaller images and for different shapes.
    """
    if a.shape != b.shape or min(a.shape[-2:]) < 2 ** (len(SCALES) - 1):
        raise ValueError(
            f"images {tuple(a.shape)} and {tuple(b.shape)}: use one shape, from 16 px on"
        )
    a, b = _as_uint8(a).float(), _as_uint8(b).float()  # (B, C, H, W), 0 to 255
    product = torch.ones(len(a))
    for scale, weight in enumerate(SCALES):
        if scale > 0:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        luminance, contrast = _ssim_terms(a, b)  # (B, C, h, w) each
        if scale == len(SCALES) - 1:  # only the coarsest scale compares luminance
            contrast = luminance * contrast
        product *= contrast.mean((1, 2, 3)).clamp_min(0) ** weight  # (B,)
    return product


def _ssim_terms(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast x structure (Wang 2004, eq. 6 and 13), of whole windows only."""
    side = min(11, *a.shape[-2:])
    x = torch.arange(side) - (side - 1) / 2
    gaussian = torch.exp(-0.5 * (x / (1.5 * side / 11)) ** 2)
    gaussian /= gaussian.sum()
    maps = torch.stack([a, b, a * a, b * b, a * b])  # (5, B, C, H, W)
    planes = F.conv2d(maps.flatten(0, 2)[:, None], gaussian.view(1, 1, -1, 1))
    planes = F.conv2d(planes, gaussian.view(1, 1, 1, -1)).squeeze(1)
    mean_a, mean_b, aa, bb, ab = planes.unflatten(0, maps.shape[:3])  # (B, C, h, w) each
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    variances = aa - mean_a**2 + bb - mean_b**2
    return luminance, (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)


def load_inception(weights: str | Path) -> FrechetInceptionDistance:
    """The Inception network of FID, from a local file: nothing is downloaded.

    Raises FileNotFoundError, ModuleNotFoundError, or ValueError for another kind of file.
    """
    import_extra("torch_fidelity", "fid=", "torch-fidelity", "fid")
    file = "torch-fidelity's weights-inception-2015-12-05-6726825d.pth"
    # read here first, which runs no code of the file: torch-fidelity would
    load_weights("fid", weights, f"{file}, from github.com/toshas/torch-fidelity/releases")
    try:  # antialias=False resizes to 299 px as the original TensorFlow code does
        return FrechetInceptionDistance(
            feature_extractor_weights_path=str(weights), antialias=False
        )
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"fid={weights}: not the weights of torch-fidelity's Inception") from error


@torch.no_grad()
def frechet_inception_distance(
    fake: Images, real: Images, inception: FrechetInceptionDistance
) -> float:
    """FID (Heusel 2017) with the network of `load_inception`, on its device; grey counts thrice.

    With a few thousand images it is biased upwards: papers use 10,000 to 50,000.
    """
    inception.reset()
    for images, is_real in ((fake, False), (real, True)):
        for start in range(0, len(images), 32):
            chunk = _as_uint8(images[start : start + 32]).expand(-1, 3, -1, -1)
            inception.update(chunk.to(inception.device), real=is_real)
    return float(inception.compute())


def _as_uint8(images: Images) -> Tensor:
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.array(images))  # a copy: a map may be read-only
    return images.cpu() if images.dtype == torch.uint8 else to_uint8(images)

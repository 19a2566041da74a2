"""Metrics of completions against the original images."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.image.lpips import _NoTrainLpips

from dcgan_inpaint.files import load_weights

ALEXNET_FILE = "torchvision's alexnet-owt-7be5be79.pth, from download.pytorch.org/models"
LPIPS_MIN_SIDE = 32  # px, the smallest image size of the models that AlexNet accepts


def psnr(images: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, (B,).

    Args:
        images: Completed images, (B, C, H, W) in [-1, 1].
        truth: Original images, (B, C, H, W) in [-1, 1].
        where: Pixels to compare, (B, 1, H, W), 1 = compared; None compares all.

    Returns:
        Infinite for equal images, nan if `where` is empty.
    """
    mse = _mean((images - truth).square(), where)  # (B,)
    return 10 * torch.log10(4 / mse)  # the peak is 2


def ssim(images: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Return the mean structural similarity of each image, (B,) in [-1, 1] (Wang 2004).

    The window is an 11x11 Gaussian with sigma 1.5.  Arguments are those of `psnr`; the result is
    nan if `where` is empty.
    """
    # The luminance term compares means relative to black, so images are moved to [0, 1].
    images, truth = (images + 1) / 2, (truth + 1) / 2
    _, similarity = structural_similarity_index_measure(
        images, truth, data_range=1.0, reduction="none", return_full_image=True
    )  # (B, C, H, W)
    return _mean(similarity, where)


def _mean(values: Tensor, where: Tensor | None) -> Tensor:
    """Return the mean (B,) of values (B, C, H, W) over the pixels of `where` (B, 1, H, W)."""
    weight = torch.ones_like(values[:, :1]) if where is None else where
    return (values * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * values.shape[1])


def completion_metrics(images: Tensor, truth: Tensor, hole: Tensor) -> dict[str, Tensor]:
    """Return psnr_hole, psnr_whole, ssim_hole and ssim_whole of each image, (B,) each.

    Args:
        images: Completed images, (B, C, H, W) in [-1, 1].
        truth: Original images, (B, C, H, W) in [-1, 1].
        hole: Hole masks, (B, 1, H, W), 1 = hole.
    """
    return {
        f"{metric.__name__}_{region}": metric(images, truth, where)
        for metric in (psnr, ssim)
        for region, where in (("hole", hole), ("whole", None))
    }


def mean_interval(values: Tensor, resamples: int = 2000) -> tuple[float, float, float]:
    """Return the mean of values (N,) and the ends of its 95% bootstrap interval (Efron 1979).

    The random numbers are fixed, so equal values give equal intervals.  A single value has no
    interval: its ends are nan.
    """
    if len(values) == 1:
        return float(values), math.nan, math.nan
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(values), (resamples, len(values)), generator=generator)
    means = values.double()[rows].mean(1)  # (resamples,)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(values.double().mean()), float(low), float(high)


def load_lpips(weights: str | Path) -> nn.Module:
    """Load the network of `lpips` from a local file with torchvision's AlexNet weights.

    Nothing is downloaded; torchmetrics contains the weights of the linear layers.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not contain the weights of AlexNet.
    """
    state = load_weights("lpips", weights, ALEXNET_FILE)
    network = _NoTrainLpips(net="alex", pnet_rand=True)  # the public class downloads AlexNet
    try:
        for part in network.net.children():  # numbered as the layers of torchvision's AlexNet
            part.load_state_dict({name: state[f"features.{name}"] for name in part.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"lpips={weights}: not AlexNet weights. Use {ALEXNET_FILE}") from error
    return network


def lpips(images: Tensor, truth: Tensor, network: nn.Module) -> Tensor:
    """Return the learned perceptual distance of each image, (B,), 0 if equal (Zhang 2018, AlexNet).

    Args:
        images: Completed images, (B, C, H, W) in [-1, 1]; a single channel is repeated.
        truth: Original images, (B, C, H, W) in [-1, 1].
        network: Result of `load_lpips`, on the device of the images.

    Raises:
        ValueError: If the images are smaller than 32 px.
    """
    if min(truth.shape[-2:]) < LPIPS_MIN_SIDE:
        raise ValueError(
            f"lpips: images of {tuple(truth.shape[-2:])} px are too small. "
            f"Use {LPIPS_MIN_SIDE} px or more"
        )
    return network(images.expand(-1, 3, -1, -1), truth.expand(-1, 3, -1, -1)).flatten()

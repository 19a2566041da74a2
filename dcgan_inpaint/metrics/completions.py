"""Quality of a completion against the true image, per image, over the hole and the whole."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure
from torchmetrics.functional.image.lpips import _NoTrainLpips

from dcgan_inpaint.files import load_weights


def psnr(images: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,): infinite when equal, nan when `where` is empty.

    images, truth (B, C, H, W) in [-1, 1] (a peak of 2); where (B, 1, H, W), 1 = counts.
    """
    error = (images - truth).square()  # (B, C, H, W)
    weight = torch.ones_like(truth[:, :1]) if where is None else where
    mse = (error * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * truth.shape[1])
    return 10 * torch.log10(4 / mse)


def ssim(images: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang 2004: 11x11 Gaussian window, sigma 1.5), (B,) in [-1, 1].

    The map is averaged over the pixels that count; nan when `where` is empty.  Arguments as `psnr`.
    """
    # in [0, 1], as everybody: the luminance term compares means, and they count from black
    similarity = structural_similarity_index_measure(
        (images + 1) / 2,
        (truth + 1) / 2,
        data_range=1.0,
        reduction="none",
        return_full_image=True,
    )[1]  # (B, C, H, W)
    weight = torch.ones_like(truth[:, :1]) if where is None else where
    return (similarity * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * truth.shape[1])


def completion_metrics(images: Tensor, truth: Tensor, hole: Tensor) -> dict[str, Tensor]:
    """psnr and ssim over the hole (B, 1, H, W) and the whole: psnr_hole, psnr_whole, ..."""
    return {
        f"{metric.__name__}_{place}": metric(images, truth, where)
        for metric in (psnr, ssim)
        for place, where in (("hole", hole), ("whole", None))
    }


def mean_interval(values: Tensor, draws: int = 2000) -> tuple[float, float, float]:
    """The mean of values (N,) and its 95% bootstrap interval (percentiles; Efron 1979).

    The same draws every time: equal values give an equal interval.
    """
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(len(values), (draws, len(values)), generator=generator)
    means = values.double()[rows].mean(1)  # (draws,)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64))
    return float(values.double().mean()), float(low), float(high)


def load_lpips(weights: str | Path) -> nn.Module:
    """The network of `lpips`: AlexNet from a local file, and the heads that torchmetrics carries.

    Nothing is downloaded.  Raises FileNotFoundError, or ValueError for another kind of file.
    """
    source = "torchvision's alexnet-owt-7be5be79.pth, from download.pytorch.org/models"
    state = load_weights("lpips", weights, source)
    network = _NoTrainLpips(net="alex", pnet_rand=True)  # the public class would download AlexNet
    try:
        for part in network.net.children():  # their layers have torchvision's numbers
            part.load_state_dict({name: state[f"features.{name}"] for name in part.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"lpips={weights}: not the weights of AlexNet; use {source}") from error
    return network


def lpips(images: Tensor, truth: Tensor, network: nn.Module) -> Tensor:
    """Learned perceptual distance (Zhang 2018, AlexNet), (B,): 0 when equal, of the whole image.

    images, truth (B, C, H, W) in [-1, 1], on the device of `network`, which `load_lpips` builds;
    grey counts as three equal channels.  Raises ValueError for images below 32 px.
    """
    if min(truth.shape[-2:]) < 32:
        raise ValueError(f"lpips: {tuple(truth.shape[-2:])} px is too small: use 32 or more")
    return network(images.expand(-1, 3, -1, -1), truth.expand(-1, 3, -1, -1)).flatten()

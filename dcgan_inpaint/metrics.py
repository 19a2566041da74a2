"""Quality of a completion against the true picture, per image, over the hole and the whole."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(pictures: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, (B,): infinite when equal, nan when `where` is empty.

    pictures, truth (B, C, H, W) in [-1, 1] (a peak of 2); where (B, 1, H, W), 1 = counts.
    """
    error = (pictures - truth).square()  # (B, C, H, W)
    weight = torch.ones_like(truth[:, :1]) if where is None else where
    mse = (error * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * truth.shape[1])
    return 10 * torch.log10(4 / mse)


def ssim(pictures: Tensor, truth: Tensor, where: Tensor | None = None) -> Tensor:
    """Structural similarity (Wang 2004: 11x11 Gaussian window, sigma 1.5), (B,) in [-1, 1].

    The map is averaged over the pixels that count; nan when `where` is empty.  Arguments as `psnr`.
    """
    similarity = structural_similarity_index_measure(
        pictures, truth, data_range=2.0, reduction="none", return_full_image=True
    )[1]  # (B, C, H, W)
    weight = torch.ones_like(truth[:, :1]) if where is None else where
    return (similarity * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) * truth.shape[1])

"""Baselines: completion without a search.

A baseline is a function (known, mask) -> fake of masked images (B, C, S, S) in [-1, 1], 0 in the
hole, and masks (B, 1, S, S), 1 = known.  It returns images (B, C, S, S) with content for the hole.
Baselines are deterministic and process each image on its own.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.blending import paste, poisson
from dcgan_inpaint.configs import Text, checked
from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.images import to_float, to_uint8
from dcgan_inpaint.inpainting.module import Completion
from dcgan_inpaint.models.base import Model


class BaselineModule(LightningModule):
    """Completes images with a baseline.

    Args:
        baseline: Function (known, mask) -> fake.
        mask: Function (index, size) -> masks (B, 1, S, S), see masks.py.
        blend: Function (fake, images, mask) -> completions, see blending.py.
        image_shape: Shape (C, S, S) of an image.
    """

    def __init__(
        self,
        baseline: Callable[[Tensor, Tensor], Tensor],
        mask: Callable[[Tensor, int], Tensor],
        blend: Callable[[Tensor, Tensor, Tensor], Tensor],
        image_shape: tuple[int, int, int],
    ):
        super().__init__()
        self.baseline, self.mask, self.blend = baseline, mask, blend
        self.image_shape = image_shape

    def check(self) -> None:
        """Raise ValueError if the mask does not fit the image size."""
        self.mask(torch.arange(1), self.image_shape[-1])

    @torch.no_grad()
    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Completion:
        """Complete a batch {"image": (B, C, S, S) in [-1, 1], "index": (B,)}."""
        images, index = batch["image"], batch["index"]
        mask = self.mask(index, images.shape[-1])  # (B, 1, S, S)
        known = images * mask
        fake = self.baseline(known, mask).to(images)  # (B, C, S, S)
        completion = self.blend(fake, images, mask)
        return Completion(index, images, mask, known, fake, completion)


def network(model: Model, ema: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the network of a model for one-pass completion.

    Args:
        model: Trained model.
        ema: Use the averaged network; False uses the raw one.

    Raises:
        ValueError: If the model has no such network.
    """
    completer = model.fill(ema)
    if completer is None:
        raise ValueError(
            f"method=network: ckpt= holds a {model.kind}, which has no network for one-pass "
            "completion. Use method=search"
        )
    return completer


def mean(known: Tensor, mask: Tensor) -> Tensor:
    """Return the mean color of the known pixels of each image; gray if there are none."""
    color = known.sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
    return color.expand_as(known)  # (B, C, 1, 1) -> (B, C, S, S)


class Nearest:
    """Nearest training image in squared error over the known pixels.

    The comparison is exact: it uses 8-bit levels in float64 on the CPU.  The first of several
    nearest images is returned.

    Args:
        source: Source of the training images.
        cache_dir: Directory of decoded images.
    """

    def __init__(self, source: Source, cache_dir: Text):
        self.images = ImageDataModule(source, cache_dir).split("train").images  # (N, C, S, S) uint8
        # chunks of 8 MiB in float64, which fit into a CPU cache
        self.chunk = max(1, 2**20 // self.images[0].size)

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        mask = mask.cpu().double()
        levels = to_uint8(known).double() * mask  # (B, C, S, S)
        targets, weights = levels.flatten(1).T, mask.flatten(1).T  # (C·S·S, B), (S·S, B)
        smallest = torch.full((len(known),), math.inf, dtype=torch.float64)  # (B,)
        nearest = torch.zeros(len(known), dtype=torch.int64)
        for start in range(0, len(self.images), self.chunk):
            # |t - y|² over the known pixels, without the constant |y|²: sum m·t² - 2·sum t·(m·y)
            t = torch.from_numpy(self.images[start : start + self.chunk].astype(np.float64))
            squares = t.square().sum(1).flatten(1)  # (n, S·S)
            distance, row = (squares @ weights - 2 * t.flatten(1) @ targets).min(0)  # (B,)
            nearest = torch.where(distance < smallest, start + row, nearest)
            smallest = torch.minimum(distance, smallest)
        return to_float(self.images[nearest.numpy()])  # (B, C, S, S)


@checked
def total_variation(
    known: Tensor, mask: Tensor, iterations: Annotated[int, Field(ge=1, le=10**6)]
) -> Tensor:
    """Return the images of least total variation that equal the known pixels (Chan & Shen 2002).

    The gradient norm is over both directions and all channels (Bresson & Chan 2008).  The solver is
    the primal-dual algorithm 1 of Chambolle & Pock 2011 with theta = 1.  It starts from the
    harmonic interpolation, with steps sigma·tau = 1/8, as 8 bounds the squared norm of the
    gradient operator.
    """
    tau = 0.03  # primal step; of 0.03, 0.1 and 0.3 it converged fastest for half faces
    sigma = 1 / (8 * tau)  # dual step
    x = extrapolated = poisson(mean(known, mask), known, mask)  # (B, C, S, S)
    p = torch.zeros_like(forward_differences(x))  # (B, 2·C, S, S) dual, norm <= 1 at each pixel
    for _ in range(iterations):
        p = p + sigma * forward_differences(extrapolated)
        p = p / p.norm(dim=1, keepdim=True).clamp(min=1)
        previous, x = x, paste(x + tau * divergence(p), known, mask)
        extrapolated = 2 * x - previous
    return x


def forward_differences(x: Tensor) -> Tensor:
    """Return the vertical and horizontal differences: (B, C, H, W) -> (B, 2·C, H, W).

    They are 0 at the last row and column.
    """
    down = F.pad(x[:, :, 1:] - x[:, :, :-1], (0, 0, 0, 1))
    right = F.pad(x[:, :, :, 1:] - x[:, :, :, :-1], (0, 1))
    return torch.cat([down, right], 1)


def divergence(p: Tensor) -> Tensor:
    """Return the negative adjoint of `forward_differences`: (B, 2·C, H, W) -> (B, C, H, W)."""
    down, right = p.chunk(2, 1)
    down, right = F.pad(down[:, :, :-1], (0, 0, 1, 1)), F.pad(right[:, :, :, :-1], (1, 1))
    return down[:, :, 1:] - down[:, :, :-1] + right[:, :, :, 1:] - right[:, :, :, :-1]


class Biharmonic:
    """Biharmonic interpolation by scikit-image (Chui & Mhaskar 2010).

    Raises:
        ModuleNotFoundError: If scikit-image is not installed.
    """

    def __init__(self) -> None:
        restoration = import_extra(
            "skimage.restoration", "method=biharmonic", "scikit-image", "baselines"
        )
        self.inpaint = partial(restoration.inpaint_biharmonic, channel_axis=-1)

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        images = known.permute(0, 2, 3, 1).cpu().numpy()  # (B, S, S, C)
        return _inpaint_each(images, (mask[:, 0] == 0).cpu().numpy(), self.inpaint)


class OpenCV:
    """Inpainting methods of OpenCV, which work on 8-bit images.

    Args:
        algorithm: "telea" for fast marching (Telea 2004), "navier_stokes" for the continuation of
            isophotes (Bertalmio 2001).
        radius: Radius in pixels of the neighborhood that determines a pixel.

    Raises:
        ModuleNotFoundError: If OpenCV is not installed.
        ValueError: If an argument is out of range.
    """

    @checked
    def __init__(
        self,
        algorithm: Literal["telea", "navier_stokes"],
        radius: Annotated[float, Field(gt=0, le=100)] = 3,
    ):
        cv2 = import_extra("cv2", f"method={algorithm}", "OpenCV", "baselines")
        flags = {"telea": cv2.INPAINT_TELEA, "navier_stokes": cv2.INPAINT_NS}
        self.inpaint = partial(cv2.inpaint, inpaintRadius=radius, flags=flags[algorithm])

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        images = to_uint8(known).permute(0, 2, 3, 1).contiguous().numpy()  # (B, S, S, C)
        holes = (mask[:, 0] == 0).to(torch.uint8).cpu().numpy()  # (B, S, S)
        return to_float(_inpaint_each(images, holes, self.inpaint).numpy())


def _inpaint_each(images: np.ndarray, holes: np.ndarray, inpaint: Callable) -> Tensor:
    """Inpaint each image (S, S, C) in its hole (S, S) with a library: returns (B, C, S, S)."""
    inpainted = [
        inpaint(image, hole).reshape(image.shape) for image, hole in zip(images, holes, strict=True)
    ]
    return torch.from_numpy(np.stack(inpainted)).permute(0, 3, 1, 2)

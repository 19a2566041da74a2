"""What one would use instead of the search for z, each as a function fill(known, mask) -> fake.

known (B, C, S, S) in [-1, 1], 0 in the hole; mask (B, 1, S, S), 1 = known; fake (B, C, S, S): what
the hole is filled from.  A fill sees known pixels only, draws nothing, and takes each image by
itself, so that batch neighbours do not matter.
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
from dcgan_inpaint.data.loader import ImageData
from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.images import masked, to_float, to_uint8
from dcgan_inpaint.inpainting.result import Completion
from dcgan_inpaint.models.base import Model


class FillingModule(LightningModule):
    """Completes with a fill; the place of InpaintingModule, without a search.

    `mask(index, size)` draws the masks (masks.py), `blend` joins fake and known pixels
    (poisson.py).  image_shape is (C, S, S).
    """

    def __init__(
        self,
        fill: Callable[[Tensor, Tensor], Tensor],
        mask: Callable[[Tensor, int], Tensor],
        blend: Callable[[Tensor, Tensor, Tensor], Tensor],
        image_shape: tuple[int, int, int],
    ):
        super().__init__()
        self.fill, self.mask, self.blend = fill, mask, blend
        self.image_shape = image_shape

    def check(self) -> None:
        """Raise ValueError for a mask that does not fit the images, before any long work."""
        self.mask(torch.arange(1), self.image_shape[-1])

    @torch.no_grad()
    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Completion:
        """Complete one batch {"image": (B, C, S, S) in [-1, 1], "index": (B,)}."""
        images, index = batch["image"], batch["index"]
        mask = self.mask(index, images.shape[-1])  # (B, 1, S, S)
        known = masked(images, mask)
        fake = self.fill(known, mask).to(images)  # (B, C, S, S)
        return Completion(
            index=index,
            images=images,
            mask=mask,
            observed=known,
            fake=fake,
            completion=self.blend(fake, images, mask),
        )


def network(model: Model, ema: bool) -> Callable[[Tensor, Tensor], Tensor]:
    """The fill that a model learned, its average or the raw one.

    Raises ValueError for a model that learned none.
    """
    fill = model.fill(ema)
    if fill is None:
        raise ValueError(f"method=network: ckpt holds a {model.kind}")
    return fill


def mean(known: Tensor, mask: Tensor) -> Tensor:
    """The mean colour of the image's known pixels; grey where there are none."""
    colour = known.sum((2, 3), keepdim=True) / mask.sum((2, 3), keepdim=True).clamp(min=1)
    return colour.expand_as(known)  # (B, C, 1, 1) -> (B, C, S, S)


class Nearest:
    """The training image of `source` closest in squared error on the known pixels.

    Of several the first.  Compared as 8-bit levels in float64 and so exactly, on the CPU.
    """

    def __init__(self, source: Source, cache_dir: Text):
        self.images = ImageData(source, cache_dir).split("train").images  # (N, C, S, S) uint8
        # read in pieces of 8 MiB as float64, which a cache holds
        self.chunk = max(1, 2**20 // self.images[0].size)

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        mask = mask.cpu().double()
        levels = masked(to_uint8(known).double(), mask)  # (B, C, S, S)
        wanted, weights = levels.flatten(1).T, mask.flatten(1).T  # (C·S·S, B), (S·S, B)
        best = torch.full((len(known),), math.inf, dtype=torch.float64)  # (B,)
        nearest = torch.zeros(len(known), dtype=torch.int64)
        for start in range(0, len(self.images), self.chunk):
            # |t - y|² on known pixels, less |y|²: sum m·t² - 2·sum t·(m·y)
            t = torch.from_numpy(self.images[start : start + self.chunk].astype(np.float64))
            squares = t.square().sum(1).flatten(1)  # (n, S·S)
            distance, which = (squares @ weights - 2 * t.flatten(1) @ wanted).min(0)  # (B,)
            nearest = torch.where(distance < best, start + which, nearest)
            best = torch.minimum(distance, best)
        return to_float(self.images[nearest.numpy()])  # (B, C, S, S)


@checked
def total_variation(
    known: Tensor, mask: Tensor, iterations: Annotated[int, Field(ge=1, le=10**6)]
) -> Tensor:
    """argmin sum |grad x| over the images x that equal the known pixels (Chan & Shen 2002).

    |grad x| is the norm over both directions and all channels (Bresson & Chan 2008), of forward
    differences, 0 beyond the border.  Algorithm 1 of Chambolle & Pock 2011 with theta = 1, from the
    harmonic fill; steps sigma · tau · 8 = 1, for 8 bounds the squared norm of grad.
    """
    tau = 0.03  # of the image: of 0.03, 0.1 and 0.3 the fastest for half of a face
    sigma = 1 / (8 * tau)  # of the dual
    x = ahead = poisson(mean(known, mask), known, mask)  # (B, C, S, S)
    p = torch.zeros_like(gradient(x))  # (B, 2·C, S, S), the dual: a vector of length <= 1 a pixel
    for _ in range(iterations):
        p = p + sigma * gradient(ahead)
        p = p / p.norm(dim=1, keepdim=True).clamp(min=1)
        moved = paste(x + tau * divergence(p), known, mask)
        x, ahead = moved, 2 * moved - x
    return x


def gradient(x: Tensor) -> Tensor:
    """Forward differences (B, 2·C, H, W), down and to the right, of (B, C, H, W)."""
    down = F.pad(x[:, :, 1:] - x[:, :, :-1], (0, 0, 0, 1))
    right = F.pad(x[:, :, :, 1:] - x[:, :, :, :-1], (0, 1))
    return torch.cat([down, right], 1)


def divergence(p: Tensor) -> Tensor:
    """Minus the adjoint of `gradient`: (B, 2·C, H, W) -> (B, C, H, W)."""
    down, right = p.chunk(2, 1)
    down, right = F.pad(down[:, :, :-1], (0, 0, 1, 1)), F.pad(right[:, :, :, :-1], (1, 1))
    return down[:, :, 1:] - down[:, :, :-1] + right[:, :, :, 1:] - right[:, :, :, :-1]


class Biharmonic:
    """The smooth continuation of scikit-image: the biharmonic equation in the hole, clipped.

    Chui & Mhaskar 2010.  Raises ModuleNotFoundError without scikit-image.
    """

    def __init__(self) -> None:
        restoration = import_extra(
            "skimage.restoration", "method=biharmonic", "scikit-image", "baselines"
        )
        self.inpaint = partial(restoration.inpaint_biharmonic, channel_axis=-1)

    def __call__(self, known: Tensor, mask: Tensor) -> Tensor:
        images = known.permute(0, 2, 3, 1).cpu().numpy()  # (B, S, S, C)
        holes = (mask[:, 0] == 0).cpu().numpy()  # (B, S, S)
        return _filled(images, holes, self.inpaint)


class OpenCV:
    """What OpenCV continues the known pixels by, each pixel from those within `radius` px; 8-bit.

    `algorithm` telea: fast marching (Telea 2004); navier_stokes: isophotes (Bertalmio 2001).
    Raises ModuleNotFoundError without OpenCV.
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
        return to_float(_filled(images, holes, self.inpaint).numpy())


def _filled(images: np.ndarray, holes: np.ndarray, inpaint: Callable) -> Tensor:
    """(B, C, S, S): images (B, S, S, C), each with its hole (S, S) filled by a library."""
    filled = [
        inpaint(image, hole).reshape(image.shape) for image, hole in zip(images, holes, strict=True)
    ]
    return torch.from_numpy(np.stack(filled)).permute(0, 3, 1, 2)

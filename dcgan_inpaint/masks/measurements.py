"""What is known of an image y is a measurement of it; pixels outside a hole are the common one.

The context loss compares what was observed of y with what G(z) would give.  Each class has
`observe(images, index)`, what is known, `predict(fake)`, the same of G(z) without chance, and
`of_pixels`.  Images (B, C, S, S) in [-1, 1].  (Amos 2016 has lowres; moodoki's code has all four
beyond holes.)
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.configs import Seed, checked
from dcgan_inpaint.images import LUMA
from dcgan_inpaint.randomness import normal


class Measurement:
    """Nothing is lost, nothing is added; the base of the others.

    `of_pixels`: the mask says which pixels are exact.  They weigh in the context loss, are put
    back, and an encoder can start from them; of any other measurement no pixel is exact.
    """

    of_pixels = False

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        return self.predict(images)

    def predict(self, fake: Tensor) -> Tensor:
        return fake


class Holes(Measurement):
    """The image itself, (B, C, S, S); the mask weighs it."""

    of_pixels = True


class Lowres(Measurement):
    """Averages over factor x factor blocks: (B, C, S / factor, S / factor).

    Raises ValueError when factor does not divide S.
    """

    @checked
    def __init__(self, factor: Annotated[int, Field(ge=1, le=4096)] = 8):
        self.factor = factor

    def predict(self, fake: Tensor) -> Tensor:
        if fake.shape[-1] % self.factor:
            size = fake.shape[-1]
            raise ValueError(f"measure.factor={self.factor} does not divide image_size={size}")
        return F.avg_pool2d(fake, self.factor)


class Grayscale(Measurement):
    """The luminance, (B, 1, S, S): colourisation.  Raises ValueError for grey images."""

    def predict(self, fake: Tensor) -> Tensor:
        if fake.shape[1] != 3:
            raise ValueError("mask=grayscale needs a checkpoint of 3 channels")
        return (fake * fake.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


class Noisy(Measurement):
    """Gaussian noise of standard deviation sigma (in [-1, 1] units) on every pixel: denoising.

    The noise of image i follows from (seed, i).
    """

    @checked
    def __init__(self, sigma: Annotated[float, Field(ge=0, le=100)] = 0.2, seed: Seed = 0):
        self.sigma, self.seed = sigma, seed

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        noise = normal("noise", self.seed, index, images[0].numel()).view_as(images)
        return images + self.sigma * noise


class Quantized(Measurement):
    """Each channel rounded to `levels` equally spaced values."""

    @checked
    def __init__(self, levels: Annotated[int, Field(ge=2, le=256)] = 4):
        self.levels = levels

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        steps = (self.levels - 1) / 2
        return torch.round((images + 1) * steps) / steps - 1

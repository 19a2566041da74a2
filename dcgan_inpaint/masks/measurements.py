"""Measurements of an image: its known pixels, block averages, luminance, noisy or quantized pixels.

The context loss compares a measurement of the image with the same measurement of G(z). Amos 2016
describes super-resolution; moodoki's implementation has the other measurements.
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
    """Base class of measurements; this one returns the image itself.

    Attributes:
        of_pixels: Whether the mask marks pixels that are known exactly. These weigh in the context
            loss and are pasted back, and a search can start from their encoding. Other measurements
            leave no pixel known exactly.
    """

    of_pixels = False

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        """Measure images (B, C, S, S) in [-1, 1] with the numbers `index` (B,), including noise."""
        return self.predict(images)

    def predict(self, fake: Tensor) -> Tensor:
        """Measure G(z) (B, C, S, S) in [-1, 1], without noise."""
        return fake


class Holes(Measurement):
    """The image itself (B, C, S, S); the mask selects its known pixels."""

    of_pixels = True


class Lowres(Measurement):
    """Averages over factor x factor blocks (B, C, S / factor, S / factor), for super-resolution."""

    @checked
    def __init__(self, factor: Annotated[int, Field(ge=1, le=4096)] = 8):
        self.factor = factor

    def predict(self, fake: Tensor) -> Tensor:
        """Average blocks. Raises ValueError if `factor` does not divide S."""
        if (size := fake.shape[-1]) % self.factor:
            raise ValueError(
                f"measure.factor={self.factor}: does not divide image_size={size}. Use a divisor"
            )
        return F.avg_pool2d(fake, self.factor)


class Grayscale(Measurement):
    """The luminance (B, 1, S, S), for colorization."""

    def predict(self, fake: Tensor) -> Tensor:
        """Return the luminance. Raises ValueError for gray images."""
        if fake.shape[1] != 3:
            raise ValueError("mask=grayscale: the model has gray images. Use a color model")
        return (fake * fake.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


class Noisy(Measurement):
    """The image with Gaussian noise of standard deviation `sigma` in [-1, 1], for denoising.

    The noise depends on (seed, index) only.
    """

    @checked
    def __init__(self, sigma: Annotated[float, Field(ge=0, le=100)] = 0.2, seed: Seed = 0):
        self.sigma, self.seed = sigma, seed

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        """Add noise to images."""
        noise = normal("noise", self.seed, index, images[0].numel()).view_as(images)
        return images + self.sigma * noise


class Quantized(Measurement):
    """Each channel rounded to `levels` equally spaced values."""

    @checked
    def __init__(self, levels: Annotated[int, Field(ge=2, le=256)] = 4):
        self.levels = levels

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        """Round images."""
        steps = (self.levels - 1) / 2
        return torch.round((images + 1) * steps) / steps - 1

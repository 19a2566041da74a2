"""Restoration beyond holes: what is known of a picture y is a measurement of it.

The context loss then compares what was observed of y with what G(z) would give, instead of known
pixels; no pixel is exact, so nothing is pasted back.  Each class has `observe(images, index)`, what
is known, and `predict(fake)`, the same of G(z) without chance.  Pictures (B, C, S, S) in [-1, 1].
(Amos 2016 has lowres; moodoki's code has all four.)
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.pictures import LUMA
from dcgan_inpaint.randomness import normal


class Measurement:
    """Nothing is lost, nothing is added; the base of the others."""

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        return self.predict(images)

    def predict(self, fake: Tensor) -> Tensor:
        return fake


class Lowres(Measurement):
    """Averages over factor x factor blocks: (B, C, S / factor, S / factor).

    Raises ValueError when factor does not divide S.
    """

    def __init__(self, factor: int = 8):
        if factor < 1:
            raise ValueError(f"measure.factor={factor}: use 1 or more")
        self.factor = factor

    def predict(self, fake: Tensor) -> Tensor:
        if fake.shape[-1] % self.factor:
            size = fake.shape[-1]
            raise ValueError(f"measure.factor={self.factor} does not divide image_size={size}")
        return F.avg_pool2d(fake, self.factor)


class Grayscale(Measurement):
    """The luminance, (B, 1, S, S): colourisation.  Raises ValueError for grey pictures."""

    def predict(self, fake: Tensor) -> Tensor:
        if fake.shape[1] != 3:
            raise ValueError("mask=grayscale needs a checkpoint of 3 channels")
        return (fake * fake.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


class Noisy(Measurement):
    """Gaussian noise of standard deviation sigma (in [-1, 1] units) on every pixel: denoising.

    The noise of picture i follows from (seed, i).  Raises ValueError for sigma below 0.
    """

    def __init__(self, sigma: float = 0.2, seed: int = 0):
        if sigma < 0:
            raise ValueError(f"measure.sigma={sigma}: use 0 or more")
        self.sigma, self.seed = sigma, seed

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        noise = normal("noise", self.seed, index, images[0].numel()).view_as(images)
        return images + self.sigma * noise


class Quantized(Measurement):
    """Each channel rounded to `levels` equally spaced values.  Raises ValueError below 2 levels."""

    def __init__(self, levels: int = 4):
        if levels < 2:
            raise ValueError(f"measure.levels={levels}: use 2 or more")
        self.levels = levels

    def observe(self, images: Tensor, index: Tensor) -> Tensor:
        steps = (self.levels - 1) / 2
        return torch.round((images + 1) * steps) / steps - 1

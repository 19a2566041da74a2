"""The GANs whose z completion can search: what `model=` offers of them, and loading any."""

from pathlib import Path

from dcgan_inpaint.adversarial import LatentGAN
from dcgan_inpaint.dcgan import DCGAN
from dcgan_inpaint.models import load_model
from dcgan_inpaint.residual_gan import ResidualGAN

GANS: tuple[type[LatentGAN], ...] = (DCGAN, ResidualGAN)


def load_gan(path: str | Path) -> LatentGAN:
    """A trained GAN on the CPU, from a checkpoint of train.py (or Lightning) and nothing else.

    Raises FileNotFoundError for a missing file, ValueError for one that is truncated or not ours.
    """
    return load_model(path, *GANS)

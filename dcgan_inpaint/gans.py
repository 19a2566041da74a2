"""The GANs whose z completion can search, by the names that their checkpoints give them."""

from dcgan_inpaint.adversarial import LatentGAN
from dcgan_inpaint.dcgan import DCGAN
from dcgan_inpaint.residual_gan import ResidualGAN

GANS: dict[str, type[LatentGAN]] = {gan.kind: gan for gan in (DCGAN, ResidualGAN)}

"""The network of a latent encoder: from the known pixels to z, and on to G's first feature map."""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint.configs import Fraction, NonNegative, Positive, Seed, settings
from dcgan_inpaint.models.base import ModelSettings, Width
from dcgan_inpaint.models.networks import Encoder, Layers


@settings
class LatentEncoderSettings(ModelSettings):
    code_dim: Width = 512
    noise_dim: Annotated[int, Field(ge=0, le=4096)] = 0  # of w; 0: one answer for each image
    df_dim: Width = 64
    layers: Layers = 4  # of E and of a sampler's D
    whole: NonNegative = 1.0
    context: NonNegative = 1.0
    lam: NonNegative = 0.001
    r1: NonNegative = 1.0
    changed: Fraction = 0.0  # share of training images, see data/changes.py
    lr: Positive = 1e-3
    schedule: Literal["constant", "cosine"] = "constant"
    seed: Seed = 0


class LatentNetwork(nn.Module):
    """An Encoder and two linear layers: known pixels and mask, as ContextGenerator's, -> z (B,
    z_dim), and the offset (B, map_dim) of G's 4x4 map from that of z: what no z can say.

    z is in [-1, 1] for the uniform prior, and free for the normal one.  With a noise_dim, noise w
    makes many codes of one: c + leaky(W (c (1 + a(w)) + b(w))).
    """

    def __init__(self, s: LatentEncoderSettings, z_dim: int, map_dim: int, prior: str):
        super().__init__()
        self.noise_dim = s.noise_dim
        self.encoder = Encoder(s.image_size, s.channels, s.code_dim, s.df_dim, s.layers)
        self.head = nn.Linear(s.code_dim, z_dim)
        self.bound: nn.Module = nn.Tanh() if prior == "uniform" else nn.Identity()
        self.offset = nn.Linear(s.code_dim, map_dim)
        nn.init.zeros_(self.offset.weight)  # it begins with images that G makes of z
        nn.init.zeros_(self.offset.bias)
        if s.noise_dim:
            self.scale = nn.Linear(s.noise_dim, s.code_dim)
            self.shift = nn.Linear(s.noise_dim, s.code_dim)
            self.mix = nn.Linear(s.code_dim, s.code_dim)

    def forward(
        self, known: Tensor, mask: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Of B images, or of K draws of each, one after the other, for noise (B·K, noise_dim)."""
        code = self.encoder(known, mask)  # (B, code_dim)
        if noise is not None:
            code = code.repeat_interleave(len(noise) // len(code), 0)  # (B·K, code_dim)
            moved = code * (1 + self.scale(noise)) + self.shift(noise)
            code = code + F.leaky_relu(self.mix(moved), 0.2)
        return self.bound(self.head(code)), self.offset(code)  # (B·K, z_dim), (B·K, map_dim)

    def fold(self) -> None:
        self.encoder.fold()

"""A residual GAN beside the DCGAN, through the same doors (Mescheder, Geiger, Nowozin 2018).

Residual blocks without normalisation, the non-saturating loss, one update of D and one of G per
batch, and the R1 penalty on D's gradient at real pictures.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint.adversarial import LatentGAN


class _Block(nn.Module):
    """x + 0.1 · two 3x3 convolutions of it, with LeakyReLU before each; 1x1 where widths change."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        narrow = min(c_in, c_out)
        self.first = nn.Conv2d(c_in, narrow, 3, padding=1)
        self.second = nn.Conv2d(narrow, c_out, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if c_in != c_out:
            self.shortcut = nn.Conv2d(c_in, c_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(F.leaky_relu(x, 0.2))  # (B, narrow, S, S)
        return self.shortcut(x) + 0.1 * self.second(F.leaky_relu(h, 0.2))  # (B, c_out, S, S)


def _widths(image_size: int, width: int) -> list[int]:
    """Channels of the maps at 4x4, 8x8, ..., image_size: at most 8 times those of the last."""
    if image_size not in (8, 16, 32, 64, 128, 256):
        raise ValueError(f"image_size={image_size}: use a power of two from 8 to 256")
    if width < 1:
        raise ValueError(f"gf_dim and df_dim are channels, not {width}: use 1 or more")
    maps = image_size.bit_length() - 2
    return [width * min(8, 2**i) for i in reversed(range(maps))]


class ResidualGenerator(nn.Module):
    """z (B, z_dim) -> pictures (B, channels, image_size, image_size) in [-1, 1].

    gf_dim channels at full size, twice as many at each smaller one, up to 8 times.
    """

    def __init__(self, image_size: int, channels: int, z_dim: int, gf_dim: int):
        super().__init__()
        self.widths = _widths(image_size, gf_dim)
        self.project = nn.Linear(z_dim, 4 * 4 * self.widths[0])
        self.blocks = nn.ModuleList(
            _Block(c_in, c_out)
            for c_in, c_out in zip(self.widths, [*self.widths[1:], gf_dim], strict=True)
        )
        self.picture = nn.Conv2d(gf_dim, channels, 3, padding=1)
        self.to(memory_format=torch.channels_last)

    @property
    def levels(self) -> int:
        """Of feature maps to search in."""
        return len(self.blocks)

    def forward(self, x: Tensor, level: int = 0, offset: Tensor | None = None) -> Tensor:
        """z, or the map of a later level (see `lift`), -> pictures (B, C, S, S)."""
        x = self.lift(x, level, self.levels, offset)  # (B, S·S·C)
        size = 2 << self.levels
        h = x.view(len(x), size, size, -1).permute(0, 3, 1, 2)  # (B, C, S, S)
        h = self.blocks[-1](h)  # (B, gf, S, S)
        return torch.tanh(self.picture(F.leaky_relu(h, 0.2)))  # (B, channels, S, S)

    def lift(self, x: Tensor, level: int, to: int, offset: Tensor | None = None) -> Tensor:
        """As networks.Generator's: level 0 is z, 1 the 4x4 map, 2 the 8x8 one, each flat."""
        for layer in range(level, to):
            if layer == 0:
                x = self.project(x)  # (B, 4·4·8·gf)
                x = x if offset is None else x + offset
                continue
            side = 2 << layer
            h = x.view(len(x), side, side, -1).permute(0, 3, 1, 2)  # (B, 8·gf, 4, 4), ...
            h = F.interpolate(self.blocks[layer - 1](h), scale_factor=2)  # (B, 8·gf, 8, 8), ...
            x = h.permute(0, 2, 3, 1).flatten(1)
        return x


class ResidualDiscriminator(nn.Module):
    """Pictures (B, channels, image_size, image_size) in [-1, 1] -> logits (B,)."""

    def __init__(self, image_size: int, channels: int, df_dim: int):
        super().__init__()
        widths = _widths(image_size, df_dim)[::-1]  # at full size, half, ..., 4x4
        self.picture = nn.Conv2d(channels, df_dim, 3, padding=1)
        self.blocks = nn.ModuleList(
            _Block(c_in, c_out) for c_in, c_out in zip([df_dim, *widths], widths, strict=False)
        )
        self.classify = nn.Linear(4 * 4 * widths[-1], 1)
        self.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        h = self.picture(images)  # (B, df, S, S)
        for i, block in enumerate(self.blocks):
            h = block(h if i == 0 else F.avg_pool2d(h, 2))  # (B, df, S, S), ... (B, 8·df, 4, 4)
        h = F.leaky_relu(h, 0.2).permute(0, 2, 3, 1).flatten(1)  # (B, 4·4·8·df)
        return self.classify(h).squeeze(1)


class ResidualGAN(LatentGAN):
    """ResidualGenerator with its moving average, and ResidualDiscriminator.

    `r1` is gamma of Mescheder 2018: D's loss has gamma / 2 · |d logit / d x|² at real pictures,
    taken every `r1_every` batches and then as many times as strong (Karras 2020).  Everything else
    as in DCGAN.  Raises ValueError when the sizes do not fit, or for a number out of range.
    """

    kind = "residual GAN"

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        crop: float = 1.0,
        z_dim: int = 100,
        gf_dim: int = 16,
        df_dim: int = 16,
        prior: str = "uniform",
        lr: float = 5e-4,
        beta1: float = 0.0,
        r1: float = 1.0,
        r1_every: int = 16,
        ema_decay: float = 0.999,
        seed: int = 0,
    ):
        if r1 < 0:
            raise ValueError(f"r1={r1}: use 0 (no penalty) or more")
        if r1_every < 1:
            raise ValueError(f"r1_every={r1_every}: use 1 or more")
        self.check_latents(z_dim, prior)
        super().__init__(
            ResidualGenerator(image_size, channels, z_dim, gf_dim),
            ResidualDiscriminator(image_size, channels, df_dim),
            ema_decay,
        )
        self.save_hyperparameters()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        images = batch["image"]  # (B, C, S, S)
        fake = self.generator(self.latents(self.rows(len(images))))  # (B, C, S, S): for both steps
        penalty = images.new_zeros(())
        if self.hparams["r1"] > 0 and self.iteration % self.hparams["r1_every"] == 0:
            penalty = self.hparams["r1_every"] * self._penalty(images)
        log = self._discriminator_step(images, fake.detach(), penalty)
        loss = self._adversarial_loss(fake)
        self._update(1, loss, count=self.iteration + 1)
        self.update_average(self.ema_generator, self.generator)
        if self.logs_now:
            log["train/g_loss"] = loss.detach()
            self.log_dict(log | {"iteration": float(self.iteration)})

    def _penalty(self, images: Tensor) -> Tensor:
        """R1: r1 / 2 · mean |d logit / d x|² at real pictures (Mescheder 2018, eq. 9)."""
        images = images.detach().requires_grad_()
        logits = self.discriminator(images).float()  # (B,)
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return self.hparams["r1"] / 2 * slope.square().sum((1, 2, 3)).mean()

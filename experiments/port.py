"""A line-by-line port of the TensorFlow code to torch, the baseline of benchmark.py.

The port uses explicit pads and crops for SAME padding, computes G(z) again for each step, computes
gradients of weights that are not updated, evaluates the losses again after the updates, and
searches through networks that are not frozen, with BatchNorm that is not folded.  Its results are
those of this project's networks.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dcgan_inpaint.losses import discriminator_losses, generator_loss


class PortedGenerator(nn.Module):
    """The function of networks.Generator, with full transposed convolutions that are cropped.

    Args:
        ours: the networks.Generator whose weights are copied.
    """

    def __init__(self, ours: Any):
        super().__init__()
        self.width = ours.widths[0]
        self.project = nn.Linear(ours.project.in_features, ours.project.out_features)
        for ported, original in zip(
            self.project.parameters(), ours.project.parameters(), strict=True
        ):  # (16·C, z_dim) and (16·C,): from flipped (H, W, C) to (C, H, W)
            unflipped = original.data.view(4, 4, self.width, -1).flip(0, 1).permute(2, 0, 1, 3)
            ported.data = unflipped.reshape(original.shape).clone()
        self.norms = nn.ModuleList(nn.BatchNorm2d(norm.num_features) for norm in ours.norms)
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(d.in_channels, d.out_channels, 5, stride=2) for d in ours.deconvs
        )
        copy_unflipped(self.deconvs, ours.deconvs)
        self.norms.load_state_dict(ours.norms.state_dict())

    def forward(self, z: Tensor) -> Tensor:
        h = self.project(z).view(-1, self.width, 4, 4)  # (B, 8·gf, 4, 4)
        for norm, deconv in zip(self.norms, self.deconvs, strict=True):
            h = deconv(F.relu(norm(h)))[:, :, 1:-2, 1:-2]  # (B, 4·gf, 8, 8), ...
        return torch.tanh(h)


class PortedDiscriminator(nn.Module):
    """The function of networks.Discriminator, with padded convolutions.

    Args:
        ours: the networks.Discriminator whose weights are copied.
        size: side of the images in px.
    """

    def __init__(self, ours: Any, size: int):
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv2d(c.in_channels, c.out_channels, 5, stride=2) for c in ours.convs
        )
        copy_unflipped(self.convs, ours.convs)
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(n.num_features) if isinstance(n, nn.BatchNorm2d) else nn.Identity()
            for n in ours.norms
        )
        self.norms.load_state_dict(ours.norms.state_dict())
        self.classify = nn.Linear(ours.classify.in_features, 1)
        side = size // 16
        unflipped = ours.classify.weight.data.view(side, side, -1).flip(0, 1).permute(2, 0, 1)
        self.classify.weight.data = unflipped.reshape(1, -1).clone()
        self.classify.bias.data = ours.classify.bias.data.clone()

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(conv(F.pad(h, (1, 2, 1, 2)))), 0.2)  # (B, df, S/2, S/2), ...
        return self.classify(h.flatten(1)).squeeze(1)  # (B,)


def copy_unflipped(ported_layers: Any, our_layers: Any) -> None:
    """Copy biases and kernels; the kernels of this project's networks are flipped."""
    for ported, ours in zip(ported_layers, our_layers, strict=True):
        ported.weight.data = ours.weight.data.flip(2, 3).clone()
        ported.bias.data = ours.bias.data.clone()


class Port:
    """The training iteration and the search of the straightforward port.

    Args:
        generator: the networks.Generator whose weights are copied.
        discriminator: the networks.Discriminator whose weights are copied.
        size: side of the images in px.
    """

    def __init__(self, generator: nn.Module, discriminator: nn.Module, size: int):
        device = next(generator.parameters()).device
        self.g = PortedGenerator(generator).to(device)
        self.d = PortedDiscriminator(discriminator, size).to(device)
        self.d_adam, self.g_adam = (
            torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999))
            for network in (self.d, self.g)
        )

    def train(self, images: Tensor, z: Tensor) -> None:
        """Update D once and G twice by images (B, C, S, S) and latents z (B, z_dim)."""
        real, fake = discriminator_losses(self.d(images), self.d(self.g(z).detach()))
        self.d_adam.zero_grad()
        (real + fake).backward()
        self.d_adam.step()
        for _ in range(2):
            self.g_adam.zero_grad()
            generator_loss(self.d(self.g(z))).backward()
            self.g_adam.step()
        # The original evaluates the losses again to print them.
        with torch.no_grad():
            real, fake = discriminator_losses(self.d(images), self.d(self.g(z)))
            float(real), float(fake), float(generator_loss(self.d(self.g(z))))

    def search(self, z: Tensor, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective of each image (B,) and its gradient (B, z_dim)."""
        fake = self.g(z)
        context = (mask * (fake - images).abs()).sum((1, 2, 3))
        total = context + 0.1 * F.softplus(-self.d(fake))
        total.sum().backward()
        assert z.grad is not None
        slope, z.grad = z.grad, None
        return total.detach(), slope

    def complete(self, z: Tensor, images: Tensor, mask: Tensor, iterations: int) -> Tensor:
        """Run Amos's search from z (B, z_dim) in place, and return the final objective (B,)."""
        z = nn.Parameter(z)
        adam = torch.optim.Adam([z], 0.01)
        for _ in range(iterations):
            _, z.grad = self.search(z, images, mask)
            adam.step()
            z.grad = None  # otherwise the next backward pass would add to it
            z.data.clamp_(-1, 1)
        return self.search(z, images, mask)[0]

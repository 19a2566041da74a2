"""Generator and Discriminator of DCGAN (Radford 2016) in the geometry of the TensorFlow original,
and the Encoder of known pixels (Pathak 2016) that is made of the same layers.

Geometry, said once.  TensorFlow's SAME padding of a stride-2 5x5 layer on an even input is 1
before and 2 after, which torch can only do with an explicit pad (or crop, for the transposed
layer): a copy of every feature map.  Flipped in height and width it is 2 before and 1 after, and
that is what torch's symmetric `padding=2` computes, since the stride never reaches the last padded
row.  So the networks work on mirrored maps throughout: kernels, the 4x4 head and all features are
the original's flipped in H and W, and only the image is flipped, where it leaves G and enters D.
Outside this file every image is upright.  tests/test_networks.py proves it against explicit pads.

Flat feature maps are (H, W, C), TensorFlow's order, which is also what channels_last memory holds:
these reshapes are free.
"""

import copy
from typing import Annotated, Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fusion

from dcgan_inpaint.models.fast_layers import OnBlocks, Winograd

Layers = Annotated[int, Field(ge=4, le=6)]  # of a discriminator or an encoder


def generator_widths(image_size: int, gf_dim: int, widths: str = "blog") -> list[int]:
    """Channels of G's hidden maps at 4x4, 8x8, ..., image_size/2.

    blog: 8, 4, 2, 1 times gf_dim at 64x64 (bamos.github.io, 2016).  amos_head: 8, 8, 4, 2 (the
    repository from commit 61c129b on).  Raises ValueError for a gf_dim that does not divide.
    """
    maps = image_size.bit_length() - 3  # 4x4 ... image_size/2
    halvings = [max(0, i - (widths == "amos_head")) for i in range(maps)]
    multiple = max(1, 2 ** halvings[-1] // 8)
    if gf_dim % multiple:
        raise ValueError(f"gf_dim={gf_dim}: at {image_size} px use a multiple of {multiple}")
    return [8 * gf_dim >> h for h in halvings]


class Generator(nn.Module):
    """z (B, z_dim) -> images (B, channels, image_size, image_size) in [-1, 1].

    Raises ValueError for a gf_dim that does not fit (see `generator_widths`).
    """

    def __init__(
        self,
        image_size: int = 64,
        channels: int = 3,
        z_dim: int = 100,
        gf_dim: int = 64,
        widths: str = "blog",
    ):
        super().__init__()
        self.widths = generator_widths(image_size, gf_dim, widths)
        outputs = [*self.widths[1:], channels]
        self.project = nn.Linear(z_dim, 4 * 4 * self.widths[0])
        self.deconvs = nn.ModuleList(
            nn.ConvTranspose2d(c_in, c_out, 5, stride=2, padding=2, output_padding=1)
            for c_in, c_out in zip(self.widths, outputs, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in self.widths)  # eps 1e-5, decay 0.9
        for layer in [self.project, *self.deconvs]:
            nn.init.normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)

    @property
    def levels(self) -> int:
        """Of feature maps to search in."""
        return len(self.deconvs)

    def set_decay(self, decay: float) -> None:
        """The share that the moving statistics keep of themselves at each training pass."""
        for norm in self.norms:
            norm.momentum = 1 - decay  # type: ignore[assignment]

    def forward(self, x: Tensor, level: int = 0, offset: Tensor | None = None) -> Tensor:
        """z, or the map of a later level (see `lift`), -> images (B, C, S, S)."""
        h = self.lift(x, level, 1 + len(self.deconvs), offset)  # (B, S·S·C)
        size = 8 << len(self.deconvs) - 1
        h = h.view(len(h), size, size, -1).permute(0, 3, 1, 2)  # (B, C, S, S)
        return torch.tanh(h).flip(2, 3)  # upright image

    def lift(self, x: Tensor, level: int, to: int, offset: Tensor | None = None) -> Tensor:
        """From one level to a later one, where the search can continue.

        Level 0 is z (B, z_dim); 1 is the 4x4 map before its BatchNorm, 2 the 8x8 one, and so on,
        each flat, (B, H·W·channels).  `offset` is added to the 4x4 map of z.
        """
        for layer in range(level, to):
            if layer == 0:
                x = self.project(x)  # (B, 4·4·8·gf)
                x = x if offset is None else x + offset
                continue
            width, side = self.widths[layer - 1], 4 << layer - 1
            h = x.view(-1, side, side, width).permute(0, 3, 1, 2)  # (B, 8·gf, 4, 4), ...
            h = self.deconvs[layer - 1](F.relu(self.norms[layer - 1](h)))  # (B, 4·gf, 8, 8), ...
            x = h.permute(0, 2, 3, 1).flatten(1)
        return x

    def fold(self) -> None:
        """Fold the BatchNorms into their neighbours, for good and in place; see `frozen`."""
        head, *norms = list[Any](self.norms)
        *wide, last = list[Any](self.deconvs)
        self.project = _fold_head(self.project, head)
        fused = (
            fusion.fuse_conv_bn_eval(deconv, norm, transpose=True)
            for deconv, norm in zip(wide, norms, strict=True)
        )
        self.deconvs = nn.ModuleList([*map(Winograd, fused), OnBlocks(last)])
        self.norms = nn.ModuleList(nn.Identity() for _ in self.norms)


class _Trunk(nn.Module):
    """Stride-2 convolutions, which a discriminator and an encoder share.

    Raises ValueError for more `layers` than halve image_size.
    """

    def __init__(self, image_size: int, channels: int, df_dim: int, layers: int):
        super().__init__()
        if image_size % (1 << layers):
            raise ValueError(f"layers={layers}: {image_size} px cannot be halved so often")
        widths = [df_dim * min(1 << i, 8) for i in range(layers)]
        self.convs = nn.ModuleList(
            nn.Conv2d(c_in, c_out, 5, stride=2, padding=2)
            for c_in, c_out in zip([channels, *widths], widths, strict=False)
        )
        self.norms = nn.ModuleList([nn.Identity(), *(nn.BatchNorm2d(c) for c in widths[1:])])
        self.features_dim = widths[-1] * (image_size >> layers) ** 2

    def initialise(self, linear: nn.Linear) -> None:
        """Initial weights of the trunk and of the linear layer on its features."""
        nn.init.normal_(linear.weight, std=0.02)
        for layer in [linear, *self.convs]:
            if isinstance(layer, nn.Conv2d):
                nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
            nn.init.zeros_(layer.bias)
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, channels, S, S) -> (B, (S/16)²·8·df), of 4 layers."""
        h = images.flip(2, 3)  # mirrored image
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = F.leaky_relu(norm(conv(h)), 0.2)  # (B, df, S/2, S/2), ... (B, 8·df, S/16, S/16)
        return h.permute(0, 2, 3, 1).flatten(1)

    def fold(self) -> None:
        """Fold the BatchNorms into their neighbours, for good and in place; see `frozen`."""
        first, *wide = list[Any](self.convs)  # the first has none
        _, *norms = list[Any](self.norms)
        fused = [*map(fusion.fuse_conv_bn_eval, wide, norms)]
        self.convs = nn.ModuleList([first, *map(Winograd, fused)])
        self.norms = nn.ModuleList(nn.Identity() for _ in self.norms)


class Discriminator(_Trunk):
    """Images (B, channels, image_size, image_size) in [-1, 1] -> logits (B,).

    The original has four layers at every image_size.
    """

    def __init__(self, image_size: int = 64, channels: int = 3, df_dim: int = 64, layers: int = 4):
        super().__init__(image_size, channels, df_dim, layers)
        self.classify = nn.Linear(self.features_dim, 1)
        self.initialise(self.classify)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images)).squeeze(1)  # (B,)

    def fold(self) -> None:
        super().fold()
        first: Any = self.convs[0]
        self.convs[0] = OnBlocks(first)  # for the gradient, which continues to the image


class Encoder(_Trunk):
    """The known pixels and the mask of images -> codes (B, code_dim).

    The discriminator's convolutions and, as in Pathak's code, BatchNorm and LeakyReLU on the code.
    """

    def __init__(self, image_size: int, channels: int, code_dim: int, df_dim: int, layers: int = 4):
        super().__init__(image_size, channels + 1, df_dim, layers)
        self.code = nn.Linear(self.features_dim, code_dim)
        self.code_norm: Any = nn.BatchNorm1d(code_dim)
        self.initialise(self.code)

    def forward(self, known: Tensor, mask: Tensor) -> Tensor:
        features = self.features(torch.cat([known, mask], 1))  # (B, (S/16)²·8·df)
        return F.leaky_relu(self.code_norm(self.code(features)), 0.2)  # (B, code_dim)

    def fold(self) -> None:
        super().fold()
        self.code = fusion.fuse_linear_bn_eval(self.code, self.code_norm)
        self.code_norm = nn.Identity()


Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network) -> Network:
    """A copy for completion: eval mode, no weight gradients, BatchNorm folded into its neighbours,
    convolutions in another form where that is faster (fast_layers.py).

    In eval mode BatchNorm is a fixed scale and shift per channel, so folding leaves the function
    as it is (to float rounding) and saves a pass over every feature map.
    """
    copied: Any = copy.deepcopy(network).eval()
    copied.fold()  # each network knows how
    return copied.requires_grad_(False).to(memory_format=torch.channels_last)


def _fold_head(project: nn.Linear, norm: Any) -> nn.Linear:
    """Fold a BatchNorm over the channels of the 4x4 head into the linear layer that makes it."""
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)  # (C,)
    shift = norm.bias - norm.running_mean * scale  # (C,)
    scale, shift = scale.repeat(16), shift.repeat(16)  # 16 positions, channels fastest
    project.weight = nn.Parameter(project.weight * scale[:, None])
    project.bias = nn.Parameter(project.bias * scale + shift)
    return project

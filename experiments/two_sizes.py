"""Compare completions of the same holes of the same photos at 64 and at 128 px.

python experiments/two_sizes.py path/to/celeba --split test --limit 256 --masks center half

The photos are CelebA's aligned ones, 178 x 218 px.  Masks are drawn at 64 px on the central 108 px,
the crop of celeba64.  celeba128 sees 142 px around the same center, and both complete the same
pixels of the photo.  The completed photos are evaluated, so the smaller completion counts as it is
after enlargement: PSNR over the hole, and over the central 108 px the feature distance to the
original and FD-EffLite0 (metrics/features.py).  Intervals are 95% bootstrap intervals.
"""

import argparse

import numpy as np
import torch
from common import format_interval, markdown_row
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint import Completer
from dcgan_inpaint.composition import compose_config
from dcgan_inpaint.data.image_files import CelebA
from dcgan_inpaint.images import to_float
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import compare, load_efflite0
from dcgan_inpaint.metrics.sets import frechet_distance

# Crop of each checkpoint: x, y, width, height in px of the photo.
CROPS = {"celeba64": (35, 55, 108, 108), "celeba128": (18, 38, 142, 142)}
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="directory of CelebA")
    parser.add_argument("--split", default="test", help="train, val or test")
    parser.add_argument("--limit", type=int, default=256, help="number of photos")
    default_masks = ["center", "pattern", "random80", "half"]
    parser.add_argument("--masks", nargs="+", default=default_masks, help="names of conf/mask")
    arguments = parser.parse_args()
    source = CelebA(arguments.root)
    photos = [source.open_image(name) for name in source.items(arguments.split)[: arguments.limit]]
    truth = crop_center(photos)
    network = load_efflite0(truth.shape[-1])
    print("| mask | model | PSNR, dB | feature distance | FD-EffLite0 |\n|---|---|---|---|---|")
    for mask in arguments.masks:
        masks = make_masks(mask, len(photos))
        hole = (crop_center(masks) < 0).float()  # (N, 1, 108, 108)
        for name, crop in CROPS.items():
            completions = crop_center(complete(Completer.load(name), photos, masks, crop))
            distance, pooled = compare(completions, truth, network)
            cells = [
                format_interval(psnr(completions, truth, hole)),
                format_interval(distance, 3),
                f"{frechet_distance(pooled[:, 0], pooled[:, 1]):.1f}",
            ]
            print(markdown_row([mask, name, *cells]), flush=True)


def make_masks(name: str, count: int) -> list[Image.Image]:
    """Return a mask image of each photo, white where pixels are known."""
    mask = instantiate(compose_config("inpaint", [f"mask={name}"]).mask)
    levels = (255 * mask(torch.arange(count), 64)).byte()[:, 0].numpy()  # (N, 64, 64)
    x, y, w, h = CROPS["celeba64"]
    images = []
    for pixels in levels:
        image = Image.new("L", (178, 218), 255)
        image.paste(Image.fromarray(pixels).resize((w, h), Image.Resampling.NEAREST), (x, y))
        images.append(image)
    return images


def complete(
    completer: Completer, photos: list[Image.Image], masks: list[Image.Image], crop: tuple
) -> list[Image.Image]:
    """Complete the photos in batches."""
    completed = []
    for i in range(0, len(photos), BATCH):
        part = slice(i, i + BATCH)
        completed += [result.image for result in completer(photos[part], masks[part], crop=crop)]
    return completed


def crop_center(images: list[Image.Image]) -> Tensor:
    """Return the central 108 px of each image as a tensor (N, C, 108, 108) in [-1, 1]."""
    x, y, w, h = CROPS["celeba64"]
    crops = [pil_to_tensor(image.crop((x, y, x + w, y + h))).numpy() for image in images]
    return to_float(np.stack(crops))


if __name__ == "__main__":
    main()

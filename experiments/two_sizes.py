"""The same holes of the same photos, completed at 64 and at 128 px: which is nearer to the truth?

python experiments/two_sizes.py path/to/celeba --split test --limit 256 --masks center half

CelebA's aligned photos, 178 x 218 px.  Masks are drawn at 64 px on the central 108 px, which is
what celeba64 sees; celeba128 sees 142 px around the same center, and both complete the same pixels
of the photo.  The figures are those of the photos that come out, so the smaller completion counts
as it is when enlarged: PSNR over the hole, and of the central 108 px the feature distance to the
true ones and FD-EffLite0 (quality/features.py).  95% bootstrap intervals.
"""

import argparse

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint import Completer
from dcgan_inpaint.configs import compose_config
from dcgan_inpaint.data.celeba import CelebA
from dcgan_inpaint.images import to_float
from dcgan_inpaint.metrics.completions import mean_interval, psnr
from dcgan_inpaint.metrics.features import compare, frechet_distance, load_efflite0

SQUARES = {"celeba64": (35, 55, 108, 108), "celeba128": (18, 38, 142, 142)}  # x, y, w, h
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", help="of CelebA")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=256)
    parser.add_argument("--masks", nargs="+", default=["center", "pattern", "random80", "half"])
    arguments = parser.parse_args()
    source = CelebA(arguments.root)
    photos = [source.image(name) for name in source.items(arguments.split)[: arguments.limit]]
    truth = central(photos)
    network = load_efflite0(truth.shape[-1])
    print("| mask | model | PSNR, dB | feature distance | FD-EffLite0 |\n|---|---|---|---|---|")
    for mask in arguments.masks:
        holes = holes_of(mask, len(photos))
        where = central(holes) < 0  # (N, 1, 108, 108)
        for name, square in SQUARES.items():
            made = central(completed(Completer.load(name), photos, holes, square))
            distance, pooled = compare(made, truth, network)
            decibels = interval(psnr(made, truth, where.float()), 2)
            far = interval(distance, 3)
            fd = frechet_distance(pooled[:, 0], pooled[:, 1])
            print(f"| {mask} | {name} | {decibels} | {far} | {fd:.1f} |", flush=True)


def holes_of(mask: str, count: int) -> list[Image.Image]:
    """A mask for each photo, white where it is known."""
    draw = instantiate(compose_config("inpaint", [f"mask={mask}"]).mask)
    levels = (255 * draw(torch.arange(count), 64)).byte()[:, 0].numpy()  # (N, 64, 64)
    x, y, w, h = SQUARES["celeba64"]
    holes = []
    for each in levels:
        whole = Image.new("L", (178, 218), 255)
        whole.paste(Image.fromarray(each).resize((w, h), Image.Resampling.NEAREST), (x, y))
        holes.append(whole)
    return holes


def completed(
    completer: Completer, photos: list[Image.Image], holes: list[Image.Image], square: tuple
) -> list[Image.Image]:
    done = []
    for i in range(0, len(photos), BATCH):
        part = slice(i, i + BATCH)
        done += [result.image for result in completer(photos[part], holes[part], crop=square)]
    return done


def central(images: list[Image.Image]) -> Tensor:
    """The central 108 px of each, (N, C, 108, 108) in [-1, 1]."""
    x, y, w, h = SQUARES["celeba64"]
    cut = [pil_to_tensor(each.crop((x, y, x + w, y + h))).numpy() for each in images]
    return to_float(np.stack(cut))


def interval(values: Tensor, digits: int) -> str:
    mean, low, high = (f"{value:.{digits}f}" for value in mean_interval(values))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()

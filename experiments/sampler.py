"""Draws and their mean, under each mask: how good, how sharp, how different, how honest.

python experiments/sampler.py ckpt=<run>/weights.safetensors data=celeba data.root=path/to/celeba \\
    limit=512 --masks center half pattern random80 freeform

Takes what inpaint.py takes, and completes each image once under each mask, with 8 candidates.  A
row a mask: PSNR over the hole of the first draw and of the mean of all, with 95% bootstrap
intervals; the error of that mean that the draws alone predict, and the one that is expected by
measurement (models/doubt.py), by the true one, over all and, behind it, the lowest and the highest
of the middle eight tenths (calibration.py); Fréchet and feature distance of both, and the diversity
of the draws (quality/features.py).  `--without 64` adds PSNR without the first 64 images.
"""

import argparse
from typing import Any

import torch
from calibration import by_tenths, hole_numbers
from hydra.utils import instantiate
from torch import Tensor

from dcgan_inpaint.data.loader import ImageData, batches
from dcgan_inpaint.inpainting.build import build, load_configured
from dcgan_inpaint.metrics.completions import mean_interval, psnr
from dcgan_inpaint.metrics.features import compare, diversity, frechet_distance, load_efflite0
from dcgan_inpaint.models.checkpoint import source_of

HEADER = (
    "mask",
    "one draw, dB",
    "mean, dB",
    "by the draws / true",
    "expected / true",
    "FD-EffLite0, draw and mean",
    "feature distance, draw and mean",
    "diversity",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="as for inpaint.py")
    parser.add_argument("--masks", nargs="+", default=["center"], help="names in conf/mask")
    parser.add_argument("--without", type=int, default=0, help="images left out of a second row")
    arguments = parser.parse_args()
    print("| " + " | ".join(HEADER) + " |\n|" + " --- |" * len(HEADER))
    for mask in arguments.masks:
        for row in rows(mask, arguments.overrides, arguments.without):
            print("| " + " | ".join(row) + " |", flush=True)


def rows(mask: str, overrides: list[str], without: int) -> list[list[str]]:
    """The table's rows of one mask."""
    fixed = ["ckpt=faces64", "candidates=8", "select=sample"]
    config, model = load_configured([*fixed, *overrides, f"mask={mask}"])
    module = build(config, model, instantiate(config.mask))
    data = ImageData(source_of(model, instantiate(config.data), str(config.ckpt)), config.cache_dir)
    images = data.split(config.split)
    first = torch.utils.data.Subset(images, range(min(config.limit or len(images), len(images))))
    network = load_efflite0(model.image_shape[1])
    seen: list[list[Tensor]] = []  # of each batch
    for batch in batches(first, config.batch_size):
        done: Any = module.predict_step(batch)
        hole, answers = 1 - done.mask, (done.candidates[:, 0], done.candidates.mean(1))
        numbers: list[Tensor] = []
        for answer in answers:
            numbers += [psnr(answer, done.images, hole), *compare(answer, done.images, network)]
        seen.append(
            [
                *numbers,
                diversity(done.candidates, network),
                *hole_numbers(done, True),
                *hole_numbers(done, False),
            ]
        )
    columns = [torch.cat(column) for column in zip(*seen, strict=True)]
    draw, draw_far, draw_pooled, mean, mean_far, mean_pooled, diverse, *errors = columns
    fd = [frechet_distance(*pooled.unbind(1)) for pooled in (draw_pooled, mean_pooled)]
    found = [
        [
            mask,
            interval(draw),
            interval(mean),
            ratios(*errors[:2]),
            ratios(*errors[2:]),
            f"{fd[0]:.1f}, {fd[1]:.1f}",
            f"{draw_far.mean():.2f}, {mean_far.mean():.2f}",
            f"{diverse.mean():.2f}",
        ]
    ]
    if without:
        rest = [interval(draw[without:]), interval(mean[without:])]
        found.append([f"{mask}, without the first {without}", *rest, *[""] * (len(HEADER) - 3)])
    return found


def ratios(predicted: Tensor, true: Tensor) -> str:
    """Predicted by true error, over all; the lowest and the highest of the middle eight tenths."""
    over_all = (predicted.square().mean() / true.square().mean()).sqrt()
    said, found = by_tenths(predicted, true)
    middle = (said / found)[1:-1]
    return f"{over_all:.2f}; {middle.min():.2f} to {middle.max():.2f}"


def interval(values: Tensor) -> str:
    """Mean and 95% interval of PSNR (N,) in dB."""
    mean, low, high = mean_interval(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()

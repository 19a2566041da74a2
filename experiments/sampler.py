"""Evaluate the samples of an encoder and their mean: quality, sharpness, diversity, calibration.

python experiments/sampler.py ckpt=<run>/weights.safetensors data=celeba data.root=path/to/celeba \\
    limit=512 --masks center half pattern random80 freeform

Accepts the overrides of inpaint.py.  Each image is completed once under each mask, with 8
candidates.  The script prints a row per mask:

- PSNR over the hole of the first sample and of the mean of all, with 95% bootstrap intervals;
- the predicted error of this mean divided by the true error, predicted from the spread of the
  samples alone and by the measured lines (models/uncertainty.py): over all pixels, and the lowest
  and the highest of the middle eight tenths (calibration.py);
- Fréchet and feature distance of the first sample and of the mean, and the diversity of the samples
  (metrics/features.py).

`--without 64` adds a row with the PSNR without the first 64 images.
"""

import argparse

import torch
from calibration import hole_errors, rms_by_tenths
from common import CompletionRun, format_interval, markdown_row
from torch import Tensor

from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import compare, diversity, load_efflite0
from dcgan_inpaint.metrics.sets import frechet_distance

HEADER = (
    "mask",
    "one sample, dB",
    "mean, dB",
    "from the spread / true",
    "measured / true",
    "FD-EffLite0, sample and mean",
    "feature distance, sample and mean",
    "diversity",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="overrides of inpaint.py")
    parser.add_argument("--masks", nargs="+", default=["center"], help="names of conf/mask")
    parser.add_argument(
        "--without", type=int, default=0, help="first images to leave out of a second row"
    )
    arguments = parser.parse_args()
    print(markdown_row(HEADER) + "\n" + markdown_row(["---"] * len(HEADER)))
    for mask in arguments.masks:
        for row in evaluate_mask(mask, arguments.overrides, arguments.without):
            print(markdown_row(row), flush=True)


def evaluate_mask(mask: str, overrides: list[str], without: int) -> list[list[str]]:
    """Return the rows of the table for one mask."""
    run = CompletionRun(["candidates=8", "select=sample", *overrides, f"mask={mask}"])
    network = load_efflite0(run.model.image_shape[1])
    values: list[list[Tensor]] = []  # a list per batch
    for completed in run.completions():
        hole, samples = 1 - completed.mask, completed.candidates  # (B, K, C, S, S)
        quality: list[Tensor] = []
        for images in (samples[:, 0], samples.mean(1)):
            distances = compare(images, completed.images, network)
            quality += [psnr(images, completed.images, hole), *distances]
        errors = [*hole_errors(completed, True), *hole_errors(completed, False)]
        values.append([*quality, diversity(samples, network), *errors])
    columns = [torch.cat(column) for column in zip(*values, strict=True)]
    psnr_one, distance_one, pooled_one, psnr_mean, distance_mean, pooled_mean, diverse = columns[:7]
    fd_one, fd_mean = (frechet_distance(*p.unbind(1)) for p in (pooled_one, pooled_mean))
    rows = [
        [
            mask,
            format_interval(psnr_one),
            format_interval(psnr_mean),
            format_ratios(*columns[7:9]),
            format_ratios(*columns[9:]),
            f"{fd_one:.1f}, {fd_mean:.1f}",
            f"{distance_one.mean():.3f}, {distance_mean.mean():.3f}",
            f"{diverse.mean():.3f}",
        ]
    ]
    if without:
        rest = [format_interval(psnr_one[without:]), format_interval(psnr_mean[without:])]
        rows.append([f"{mask}, without the first {without}", *rest, *[""] * (len(HEADER) - 3)])
    return rows


def format_ratios(predicted: Tensor, true: Tensor) -> str:
    """Format predicted / true error (N,): over all, and the range of the middle eight tenths."""
    overall = (predicted.square().mean() / true.square().mean()).sqrt()
    predicted_rms, true_rms = rms_by_tenths(predicted, true)
    middle = (predicted_rms / true_rms)[1:-1]
    return f"{overall:.2f}; {middle.min():.2f} to {middle.max():.2f}"


if __name__ == "__main__":
    main()

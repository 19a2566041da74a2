"""Check whether a model copies its training images, by the distance to the nearest of them.

python experiments/neighbors.py ckpt=<run>/weights.safetensors data=celeba data.root=path/to/celeba

Accepts the overrides of inpaint.py.  For `limit` (64) samples G(z), and for as many completed
holes, the script prints the distance to the nearest training image, over the whole image or over
the hole.  For comparison it prints the same distance of test images.  Distances are root mean
squares, of intensities from 0 to 1.  A copy has a distance near 0.  A new image is at least as far
from the training images as a test image is.
"""

import sys

import numpy as np
import torch
from common import CompletionRun
from torch import Tensor

from dcgan_inpaint.data.batches import make_dataloader
from dcgan_inpaint.images import to_float

CHUNK = 500  # training images at a time, to limit memory


def main() -> None:
    run = CompletionRun(["limit=64", *sys.argv[1:]])
    train, test = run.data.split("train").images, run.subset("test")
    (batch,) = make_dataloader(test, len(test))
    images = batch["image"]  # (N, C, S, S)
    completed = run.module.predict_step(batch)
    everywhere, hole = torch.ones_like(completed.mask), 1 - completed.mask
    rows = [("test images", "whole image", images, everywhere)]
    if run.model.gan is not None:
        samples = run.model.gan(run.model.gan.latents(torch.arange(len(images)), seed=1))
        rows.append(("samples", "whole image", samples, everywhere))
    rows += [
        ("test images", "hole", images, hole),
        ("completions", "hole", completed.completion, hole),
    ]
    print("| | region | mean distance | smallest distance |\n| --- | --- | --- | --- |")
    for name, region, candidates, weights in rows:
        distance = nearest_distance(candidates, weights, train)
        print(f"| {name} | {region} | {distance.mean():.3f} | {distance.min():.3f} |")


def nearest_distance(images: Tensor, weights: Tensor, train: np.ndarray) -> Tensor:
    """Return the distance of each image to the nearest training image.

    Args:
        images: (N, C, S, S) in [-1, 1].
        weights: (N, 1, S, S), 1 where pixels are compared and 0 elsewhere.
        train: (M, C, S, S) uint8.

    Returns:
        (N,) root mean square differences, of intensities from 0 to 1.
    """
    weighted = (images * weights).flatten(1).double()  # (N, C·S·S)
    weights = weights.expand_as(images).flatten(1).double()
    smallest = torch.full((len(images),), torch.inf, dtype=torch.float64)
    for start in range(0, len(train), CHUNK):
        chunk = to_float(train[start : start + CHUNK]).flatten(1).double()
        # sum w·(t - y)² without the constant sum w·y²
        squares = weights @ chunk.square().T - 2 * weighted @ chunk.T  # (N, M)
        smallest = torch.minimum(smallest, squares.min(1).values)
    squares = smallest + weighted.square().sum(1)
    return (squares.clamp(min=0) / weights.sum(1)).sqrt() / 2  # from [-1, 1] to [0, 1]


if __name__ == "__main__":
    main()

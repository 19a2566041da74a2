"""Does the model repeat images that it was trained on?

python -m experiments.neighbors ckpt=<run>/weights.safetensors data=celeba data.root=path/to/celeba

Takes what inpaint.py takes.  For each of `limit` (64) samples G(z), and of as many completed holes,
the distance to the nearest training image, over the whole image or the hole, beside the same
distance of test images that nobody was trained on: root mean squares, of intensities from 0 to 1.
A copy would be at a distance near 0; what is new is as far from the training images as a test
image is, or farther.
"""

import sys

import torch
from hydra.utils import instantiate
from torch import Tensor

from dcgan_inpaint.data.loader import ImageData
from dcgan_inpaint.images import to_float
from dcgan_inpaint.inpainting.build import build, load_configured
from dcgan_inpaint.models.checkpoint import source_of

CHUNK = 500  # training images at a time


def main() -> None:
    config, model = load_configured(["ckpt=faces64", "limit=64", *sys.argv[1:]])
    module = build(config, model, instantiate(config.mask))
    data = ImageData(source_of(model, instantiate(config.data), str(config.ckpt)), config.cache_dir)
    train, test = data.split("train").images, data.split("test")
    first = test.__getitems__(list(range(min(config.limit or len(test), len(test)))))
    images = first["image"]  # (N, C, S, S)
    done = module.predict_step(first)
    everywhere, hole = torch.ones_like(done.mask), 1 - done.mask
    print("| | over | mean | nearest of all |\n| --- | --- | --- | --- |")
    rows = [("test images", "the whole", images, everywhere)]
    if model.gan is not None:
        samples = model.gan(model.gan.latents(torch.arange(len(images)), seed=1))
        rows.append(("samples", "the whole", samples, everywhere))
    rows += [
        ("test images", "the hole", images, hole),
        ("completions", "the hole", done.completion, hole),
    ]
    for name, over, pictures, weights in rows:
        distance = nearest(pictures, weights, train)
        print(f"| {name} | {over} | {distance.mean():.3f} | {distance.min():.3f} |")


def nearest(pictures: Tensor, weights: Tensor, train: object) -> Tensor:
    """(N,): of images (N, C, S, S), where weights (N, 1, S, S) is 1, to the nearest of `train`
    (M, C, S, S) uint8."""
    wanted = (pictures * weights).flatten(1).double()  # (N, C·S·S)
    where = weights.expand_as(pictures).flatten(1).double()
    best = torch.full((len(pictures),), torch.inf, dtype=torch.float64)
    for start in range(0, len(train), CHUNK):  # type: ignore[arg-type]
        some = to_float(train[start : start + CHUNK]).flatten(1).double()  # type: ignore[index]
        # |t - y|² where it counts: sum w·t² - 2 sum t·(w·y) + |w·y|²
        squares = where @ some.square().T - 2 * wanted @ some.T  # (N, M)
        best = torch.minimum(best, squares.min(1).values)
    squares = best + wanted.square().sum(1)
    return (squares.clamp(min=0) / where.sum(1)).sqrt() / 2  # of [0, 1]


if __name__ == "__main__":
    main()

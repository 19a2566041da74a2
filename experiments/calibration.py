"""Is the mean of the candidates as wrong as it is said to be?

python -m experiments.calibration candidates=8 limit=64 mask=center --figure runs/calibration.png

Takes what inpaint.py takes (ckpt=..., data=..., start=...), completes the images, and sorts the
pixels of the holes by the error that is predicted for the mean of each image's candidates: the
expected error of a sampler's draws (models/doubt.py), or, of other candidates and with --alone,
what their standard deviation says if the truth were one more of them.  For each tenth of the pixels
it prints the predicted error beside the true one: root mean squares, of intensities from 0 to 1.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from dcgan_inpaint.data.loader import ImageData, batches
from dcgan_inpaint.inpainting.build import build, load_configured
from dcgan_inpaint.models.checkpoint import source_of
from dcgan_inpaint.models.uncertainty import own_doubt


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="as for inpaint.py")
    parser.add_argument("--alone", action="store_true", help="by the candidates alone")
    parser.add_argument("--figure", type=Path, required=True, help="where to write the plot")
    arguments = parser.parse_args()
    config, model = load_configured(["ckpt=faces64", "candidates=8", *arguments.overrides])
    module = build(config, model, instantiate(config.mask))
    data = ImageData(source_of(model, instantiate(config.data), str(config.ckpt)), config.cache_dir)
    images = data.split(config.split)
    first = torch.utils.data.Subset(images, range(min(config.limit or len(images), len(images))))
    completed = (module.predict_step(batch) for batch in batches(first, config.batch_size))
    numbers = [hole_numbers(done, arguments.alone) for done in completed]
    predicted, true = (torch.cat(column) for column in zip(*numbers, strict=True))
    tenths = by_tenths(predicted, true)
    print("| tenth | predicted error | error of the mean | predicted / true |")
    print("| --- | --- | --- | --- |")
    for i, (p, t) in enumerate(zip(*tenths, strict=True), start=1):
        print(f"| {i} | {p:.3f} | {t:.3f} | {p / t:.2f} |")
    p, t = (x.square().mean().sqrt() for x in (predicted, true))
    print(f"| all | {p:.3f} | {t:.3f} | {p / t:.2f} |")
    plot(*tenths, arguments.figure)


def hole_numbers(done: Any, alone: bool) -> tuple[Tensor, Tensor]:
    """The predicted and the true error of the mean of a batch's candidates, (N,) each, in the
    holes: root mean squares over channels.  `alone`: as the candidates say, and no measurement."""
    predicted = done.predicted_error
    if predicted is None or alone:
        predicted = own_doubt(done.candidates)  # (B, 1, S, S)
    error = (done.candidates.mean(1) - done.images).square().mean(1, keepdim=True).sqrt()
    hole = done.mask == 0
    return predicted[hole] / 2, error[hole] / 2


def by_tenths(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean squares (10,) of both, in tenths of the numbers sorted by what is predicted."""
    tenths = predicted.argsort().tensor_split(10)
    rms = [[x[tenth].square().mean().sqrt() for tenth in tenths] for x in (predicted, true)]
    return torch.tensor(rms[0]), torch.tensor(rms[1])


def plot(predicted: Tensor, true: Tensor, path: Path) -> None:
    import matplotlib.pyplot as plt  # an optional extra: tables do without it

    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot(predicted, true, "o-", label="tenths of the hole's pixels")
    end = max(predicted.max(), true.max()).item() * 1.05
    axes.plot([0, end], [0, end], "k:", label="calibrated")
    axes.set(xlim=(0, end), ylim=(0, end))
    axes.set_xlabel("predicted error of the candidates' mean, intensity")
    axes.set_ylabel("true error, root mean square, intensity")
    axes.set_title("Predicted against true error")
    axes.legend()
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

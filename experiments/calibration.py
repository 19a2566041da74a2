"""Compare the predicted error of the mean of several completions with its true error.

python experiments/calibration.py candidates=8 limit=64 mask=center --figure runs/calibration.png

Accepts the overrides of inpaint.py.  The script completes the images and sorts the pixels of the
holes by the error that is predicted for the mean of the candidates of each image.  The prediction
is `predicted_error` (models/uncertainty.py).  With --alone, or if the model has no measured error,
it is the standard deviation of the candidates, under the assumption that the truth is one more of
them.  For each tenth of the pixels the script prints the predicted and the true error: root mean
squares, of intensities from 0 to 1.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from common import CompletionRun
from torch import Tensor

from dcgan_inpaint.models.uncertainty import spread_error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="overrides of inpaint.py")
    parser.add_argument(
        "--alone", action="store_true", help="predict from the spread of the candidates alone"
    )
    parser.add_argument("--figure", type=Path, required=True, help="path of the plot to write")
    arguments = parser.parse_args()
    run = CompletionRun(["candidates=8", *arguments.overrides])
    errors = [hole_errors(completion, arguments.alone) for completion in run.completions()]
    predicted, true = (torch.cat(column) for column in zip(*errors, strict=True))
    tenths = rms_by_tenths(predicted, true)
    print("| tenth | predicted error | error of the mean | predicted / true |")
    print("| --- | --- | --- | --- |")
    for i, (p, t) in enumerate(zip(*tenths, strict=True), start=1):
        print(f"| {i} | {p:.3f} | {t:.3f} | {p / t:.2f} |")
    p, t = (x.square().mean().sqrt() for x in (predicted, true))
    print(f"| all | {p:.3f} | {t:.3f} | {p / t:.2f} |")
    plot(*tenths, arguments.figure)


def hole_errors(completion: Any, alone: bool) -> tuple[Tensor, Tensor]:
    """Return the predicted and the true error of the mean of the candidates, in the holes.

    Args:
        completion: a completed batch with its candidates.
        alone: predict from the spread of the candidates, even if the model has a measured error.

    Returns:
        Two tensors (N,), a value per pixel of the holes: root mean squares over channels, of
        intensities from 0 to 1.
    """
    predicted = completion.predicted_error
    if predicted is None or alone:
        predicted = spread_error(completion.candidates)  # (B, 1, S, S)
    squares = (completion.candidates.mean(1) - completion.images).square()  # (B, C, S, S)
    error = squares.mean(1, keepdim=True).sqrt()
    hole = completion.mask == 0
    return predicted[hole] / 2, error[hole] / 2


def rms_by_tenths(predicted: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Sort by the predicted errors (N,), and return the root mean squares (10,) in each tenth."""
    tenths = predicted.argsort().tensor_split(10)
    rms = [[x[tenth].square().mean().sqrt() for tenth in tenths] for x in (predicted, true)]
    return torch.tensor(rms[0]), torch.tensor(rms[1])


def plot(predicted: Tensor, true: Tensor, path: Path) -> None:
    """Plot the true against the predicted error, (10,) each, to an image file."""
    import matplotlib.pyplot as plt  # an optional dependency

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

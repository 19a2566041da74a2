"""Does the spread of the candidates say how wrong their mean is?

python -m experiments.calibration candidates=8 limit=64 mask=center --figure runs/calibration.png

Takes what inpaint.py takes (ckpt=..., data=..., start=...), completes the pictures, and sorts the
pixels of the holes by the standard deviation over each picture's candidates, the predicted spread.
For each tenth of them it prints the predicted spread beside the true error of the candidates' mean:
root mean squares, of intensities from 0 to 1; and the error that the spread predicts by the true
one, which is 1 where the true picture might be one more candidate.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from dcgan_inpaint.completion.build import build
from dcgan_inpaint.data.loader import ImageData, batches
from dcgan_inpaint.models.checkpoint import load_model, source_of

PROJECT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="as for inpaint.py")
    parser.add_argument("--figure", type=Path, required=True, help="where to write the plot")
    arguments = parser.parse_args()
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        cfg = compose("inpaint", ["ckpt=faces64", "candidates=8", *arguments.overrides])
    model = load_model(cfg.ckpt)
    module = build(cfg, model, instantiate(cfg.mask))
    data = ImageData(source_of(model, instantiate(cfg.data), cfg.ckpt), cfg.cache_dir)
    pictures = data.split(cfg.split)
    first = torch.utils.data.Subset(pictures, range(min(cfg.limit, len(pictures))))
    numbers = [hole_numbers(module.predict_step(batch)) for batch in batches(first, cfg.batch_size)]
    spread, error = (torch.cat(column) for column in zip(*numbers, strict=True))
    predicted, true = by_tenths(spread, error)
    # the mean of K candidates is wrong by its own chance as well
    chance = (1 + 1 / cfg.candidates) ** 0.5
    ratios = chance * predicted / true
    print("| tenth | predicted spread | error of the mean | predicted / true |")
    print("| --- | --- | --- | --- |")
    for i, (p, t, ratio) in enumerate(zip(predicted, true, ratios, strict=True), start=1):
        print(f"| {i} | {p:.3f} | {t:.3f} | {ratio:.2f} |")
    (all_spread, all_error) = (x.square().mean().sqrt() for x in (spread, error))
    print(f"| all | {all_spread:.3f} | {all_error:.3f} | {chance * all_spread / all_error:.2f} |")
    plot(predicted, true, cfg.candidates, arguments.figure)


def hole_numbers(done: Any) -> tuple[Tensor, Tensor]:
    """The spread over a batch's candidates and the error of their mean, (N,) each, in the holes."""
    candidates, images = (done.candidates + 1) / 2, (done.images + 1) / 2
    spread, error = candidates.std(1), candidates.mean(1) - images  # (B, C, S, S)
    hole = (done.mask == 0).expand_as(images)
    return spread[hole], error[hole]


def by_tenths(spread: Tensor, error: Tensor) -> tuple[Tensor, Tensor]:
    """Root mean squares (10,) of both, in tenths of the numbers sorted by spread."""
    tenths = spread.argsort().tensor_split(10)
    rms = [[x[tenth].square().mean().sqrt() for tenth in tenths] for x in (spread, error)]
    return torch.tensor(rms[0]), torch.tensor(rms[1])


def plot(predicted: Tensor, true: Tensor, candidates: int, path: Path) -> None:
    import matplotlib.pyplot as plt  # an optional extra: tables do without it

    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot(predicted, true, "o-", label="tenths of the hole's pixels")
    end = max(predicted.max(), true.max()).item() * 1.05
    axes.plot([0, end], [0, end * (1 + 1 / candidates) ** 0.5], "k:", label="calibrated")
    axes.set(xlim=(0, end), ylim=(0, end))
    axes.set_xlabel(f"standard deviation over {candidates} candidates, intensity")
    axes.set_ylabel("root mean square error of their mean, intensity")
    axes.set_title("Predicted spread against true error")
    axes.legend()
    axes.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

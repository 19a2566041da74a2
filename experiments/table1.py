"""The paper's table: masks x methods on the same test images.

python experiments/table1.py gan=<run>/weights.ckpt encoder=<run>/weights.ckpt \\
    context_encoder=<run>/weights.ckpt data.root=path/to/celeba

Runs inpaint.py once for each mask and method, in runs/table1/<mask>/<method>, and prints the tables
of experiments/table1.md.  Killed, it goes on where it stopped.  gan is a DCGAN, encoder the latent
encoder that learned from it; what else is given goes to every run (batch_size=...,
trainer.accelerator=...).
"""

import subprocess
import sys
from pathlib import Path

import torch
from gather import find_runs

from dcgan_inpaint.metrics.completions import mean_interval

PROJECT = Path(__file__).parents[1]
MASKS = ("center", "pattern", "random80", "half")
PRINTED = {  # Yeh 2017, table 1, CelebA: context encoder, Yeh; dB
    "center": (21.3, 19.4),
    "pattern": (19.2, 17.4),
    "random80": (20.6, 22.8),
    "half": (15.5, 13.7),
}
MODELS = ("gan", "encoder", "context_encoder")
METHODS = {  # by name: which of MODELS, and what else inpaint.py is told
    "mean colour": ("gan", ["method=mean"]),
    "nearest training image": ("gan", ["method=nearest"]),
    "biharmonic": ("gan", ["method=biharmonic"]),
    "total variation": ("gan", ["method=tv"]),
    "Telea": ("gan", ["method=telea"]),
    "Navier-Stokes": ("gan", ["method=navier_stokes"]),
    "context encoder": ("context_encoder", ["method=network"]),
    "Amos 2016": ("gan", ["experiment=amos2016"]),
    "Yeh 2017": ("gan", ["experiment=yeh2017"]),
    "ours, from a random z": ("gan", []),
    "ours, learned start alone": ("encoder", ["stages=none", "candidates=1"]),
    "ours, one start": ("encoder", ["candidates=1"]),
    "ours": ("encoder", []),
}
DIGITS = {"psnr_hole": ".2f", "psnr_whole": ".2f", "ssim_hole": ".3f", "seconds": ".2g"}
LIMIT = 512
SEEN = 64  # of them, the first, that search.md and beyond.md compare ideas on


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if not set(MODELS) <= given.keys() or len(given) < len(sys.argv) - 1:
        sys.exit(f"error: give {'=... '.join(MODELS)}=... and key=value for inpaint.py")
    weights = {model: given.pop(model) for model in MODELS}
    common = ["data=celeba", f"limit={LIMIT}", *(f"{key}={value}" for key, value in given.items())]
    for mask in MASKS:
        for name, (model, arguments) in METHODS.items():
            command = [sys.executable, str(PROJECT / "inpaint.py"), f"ckpt={weights[model]}"]
            more = [f"mask={mask}", *arguments, *common, f"output={folder(mask, name)}"]
            subprocess.run([*command, *more], check=True)
    for metric in DIGITS:
        print(f"\n{metric}\n\n{table(metric)}")
    print(f"\npsnr_hole: ours minus the method's, image by image\n\n{margins()}")


def table(metric: str) -> str:
    """Markdown: a row for each method, a column for each mask.

    Means with 95% intervals; medians of the seconds, which other work on the machine may stretch.
    """
    lines = []
    if metric == "psnr_hole":
        for i, name in enumerate(("context encoder, as printed", "Yeh 2017, as printed")):
            lines.append([name, *(f"{PRINTED[mask][i]}" for mask in MASKS)])
    for name in METHODS:
        lines.append([name, *(cell(column(mask, name, metric), metric) for mask in MASKS)])
    unseen = (cell(column(mask, "ours", metric)[SEEN:], metric) for mask in MASKS)
    lines.append([f"ours, without the first {SEEN} images", *unseen])
    return markdown(lines)


def margins() -> str:
    """Markdown: by how much our PSNR over the hole is above each method's, on the same images."""
    lines = []
    for name in [name for name in METHODS if name != "ours"]:
        pairs = [[column(mask, who, "psnr_hole") for who in ("ours", name)] for mask in MASKS]
        lines.append([name, *(cell(ours - theirs, "psnr_hole") for ours, theirs in pairs)])
    return markdown(lines)


def markdown(lines: list[list[str]]) -> str:
    header = [["method", *MASKS], ["---"] * (1 + len(MASKS))]
    return "\n".join(f"| {' | '.join(line)} |" for line in header + lines)


def folder(mask: str, method: str) -> Path:
    return Path("runs/table1") / mask / method.replace(",", "").replace(" ", "_")


def column(mask: str, method: str, metric: str) -> torch.Tensor:
    """A metric of each image (N,)."""
    (run,) = find_runs([folder(mask, method)], ["ckpt"])
    return run.metrics[metric]


def cell(values: torch.Tensor, metric: str) -> str:
    """What the table says of a metric of each image (N,)."""
    numbers = (float(values.median()),) if metric == "seconds" else mean_interval(values)
    first, *interval = (format(number, DIGITS[metric]) for number in numbers)
    return f"{first} [{', '.join(interval)}]" if interval else first


if __name__ == "__main__":
    main()

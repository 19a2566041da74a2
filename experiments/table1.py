"""Compare all methods under the four masks of the paper, on the same test images.

python experiments/table1.py gan=<run>/weights.safetensors encoder=<run>/weights.safetensors \\
    context_encoder=<run>/weights.safetensors data.root=path/to/celeba

The script runs inpaint.py once for each mask and method, in runs/table1/<mask>/<method>, and prints
the tables of experiments/table1.md.  An interrupted script resumes where it stopped.  gan is a
DCGAN, and encoder the latent encoder that was trained with it.  All other overrides are passed to
every run (batch_size=..., trainer.accelerator=...).
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
METHODS = {  # by name: one of MODELS, and the overrides of inpaint.py
    "mean color": ("gan", ["method=mean"]),
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
FIRST = 64  # the first images of LIMIT, on which search.md and beyond.md compare ideas


def main() -> None:
    overrides = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if not set(MODELS) <= overrides.keys() or len(overrides) < len(sys.argv) - 1:
        sys.exit(f"error: expected {'=... '.join(MODELS)}=... and overrides of inpaint.py")
    weights = {model: overrides.pop(model) for model in MODELS}
    common = ["data=celeba", f"limit={LIMIT}", *(f"{k}={v}" for k, v in overrides.items())]
    for mask in MASKS:
        for name, (model, arguments) in METHODS.items():
            command = [sys.executable, str(PROJECT / "inpaint.py"), f"ckpt={weights[model]}"]
            more = [f"mask={mask}", *arguments, *common, f"output={run_dir(mask, name)}"]
            subprocess.run([*command, *more], check=True)
    for metric in DIGITS:
        print(f"\n{metric}\n\n{format_table(metric)}")
    print(f"\npsnr_hole: ours minus the method's, image by image\n\n{format_margins()}")


def format_table(metric: str) -> str:
    """Format a metric as a Markdown table with a row per method and a column per mask.

    The cells are means with 95% intervals.  For seconds they are medians, which are less sensitive
    to other work on the machine.
    """
    lines = []
    if metric == "psnr_hole":
        for i, name in enumerate(("context encoder, as printed", "Yeh 2017, as printed")):
            lines.append([name, *(f"{PRINTED[mask][i]}" for mask in MASKS)])
    for name in METHODS:
        lines.append(
            [name, *(format_cell(read_metric(mask, name, metric), metric) for mask in MASKS)]
        )
    unseen = (format_cell(read_metric(mask, "ours", metric)[FIRST:], metric) for mask in MASKS)
    lines.append([f"ours, without the first {FIRST} images", *unseen])
    return format_rows(lines)


def format_margins() -> str:
    """Format the differences in PSNR over the hole, ours minus each method, as a Markdown table."""
    lines = []
    for name in [name for name in METHODS if name != "ours"]:
        pairs = [[read_metric(mask, who, "psnr_hole") for who in ("ours", name)] for mask in MASKS]
        lines.append([name, *(format_cell(ours - theirs, "psnr_hole") for ours, theirs in pairs)])
    return format_rows(lines)


def format_rows(lines: list[list[str]]) -> str:
    """Format rows as a Markdown table with a column per mask."""
    header = [["method", *MASKS], ["---"] * (1 + len(MASKS))]
    return "\n".join(f"| {' | '.join(line)} |" for line in header + lines)


def run_dir(mask: str, method: str) -> Path:
    """Return the run directory of a mask and a method."""
    return Path("runs/table1") / mask / method.replace(",", "").replace(" ", "_")


def read_metric(mask: str, method: str, metric: str) -> torch.Tensor:
    """Return a metric of each image (N,)."""
    (run,) = find_runs([run_dir(mask, method)], ["ckpt"])
    return run.metrics[metric]


def format_cell(values: torch.Tensor, metric: str) -> str:
    """Format a metric (N,): the median for seconds, the mean and its interval for all others."""
    numbers = (float(values.median()),) if metric == "seconds" else mean_interval(values)
    first, *interval = (format(number, DIGITS[metric]) for number in numbers)
    return f"{first} [{', '.join(interval)}]" if interval else first


if __name__ == "__main__":
    main()

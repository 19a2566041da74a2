"""The paper's table: masks x methods on the same test pictures.

python experiments/table1.py ckpt=runs/train/celeba/last.ckpt encoder=runs/train/ce/last.ckpt

Runs inpaint.py once for each mask and method, in runs/table1/<mask>/<method>, and prints the tables
of experiments/table1.md.  Killed, it goes on where it stopped.  What follows ckpt= and encoder= is
given to every run (data.root=..., batch_size=..., trainer.accelerator=...).
"""

import subprocess
import sys
from pathlib import Path

import torch
from gather import Run, find_runs

from dcgan_inpaint.metrics import mean_interval

PROJECT = Path(__file__).parents[1]
MASKS = ("center", "pattern", "random80", "half")
PRINTED = {  # Yeh 2017, table 1, CelebA: context encoder, Yeh; dB
    "center": (21.3, 19.4),
    "pattern": (19.2, 17.4),
    "random80": (20.6, 22.8),
    "half": (15.5, 13.7),
}
METHODS = {  # by name: what inpaint.py is told
    "mean colour": ["method=mean"],
    "nearest training picture": ["method=nearest"],
    "biharmonic": ["method=biharmonic"],
    "total variation": ["method=tv"],
    "Telea": ["method=telea"],
    "Navier-Stokes": ["method=navier_stokes"],
    "context encoder": [],
    "Amos 2016": ["experiment=amos2016"],
    "Yeh 2017": ["experiment=yeh2017"],
    "ours": [],
}
LIMIT = 512


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    if not {"ckpt", "encoder"} <= given.keys() or len(given) < len(sys.argv) - 1:
        sys.exit("error: give ckpt=... (a DCGAN), encoder=... (a context encoder), key=value")
    ckpt, encoder = given.pop("ckpt"), given.pop("encoder")
    common = [f"limit={LIMIT}", *(f"{key}={value}" for key, value in given.items())]
    for mask in MASKS:
        for name, arguments in METHODS.items():
            output = Path("runs/table1") / mask / name.replace(" ", "_")
            weights = encoder if name == "context encoder" else ckpt
            command = [sys.executable, PROJECT / "inpaint.py", f"ckpt={weights}", f"mask={mask}"]
            subprocess.run([*command, *arguments, *common, f"output={output}"], check=True)
    for metric in ("psnr_hole", "psnr_whole", "ssim_hole", "seconds"):
        print(f"\n{metric}\n\n{table(metric)}")


def table(metric: str) -> str:
    """Markdown: a row for each method, a column for each mask; means with 95% intervals."""
    lines = [["method", *MASKS], ["---"] * (1 + len(MASKS))]
    if metric == "psnr_hole":
        for i, name in enumerate(("context encoder, as printed", "Yeh 2017, as printed")):
            lines.append([name, *(f"{PRINTED[mask][i]}" for mask in MASKS)])
    for name in METHODS:
        folder = name.replace(" ", "_")
        runs = [find_runs([Path("runs/table1") / mask / folder], ["ckpt"])[0] for mask in MASKS]
        lines.append([name, *(interval(run, metric) for run in runs)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def interval(run: Run, metric: str) -> str:
    """The mean of a metric and its 95% interval."""
    values: torch.Tensor = run.metrics[metric]
    mean, low, high = mean_interval(values)
    return f"{mean:.4g} [{low:.4g}, {high:.4g}]"


if __name__ == "__main__":
    main()

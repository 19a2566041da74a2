"""Gather completion runs into one table and one plot.

python experiments/gather.py runs/lam --by objective.saturating objective.lam --figure lam.png

The script reads every metrics.csv of a completion below the given directories; a training run has
one in validation/.  It takes the settings of --by from the config.yaml of the run and prints a
Markdown table: the name of the run (name=), means with 95% bootstrap intervals, and medians.
Without --by, runs without a name have that of their directory.  The plot shows the first metric
against the last setting of --by, with a line for each value of the other settings.
"""

import argparse
import csv
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf

from dcgan_inpaint.metrics.completions import mean_interval

METRICS = ["psnr_hole", "psnr_whole", "ssim_hole"]  # of --metrics by default


class Run(NamedTuple):
    """The settings and the metrics of one completion run."""

    settings: tuple[Any, ...]  # in the order of --by
    metrics: dict[str, torch.Tensor]  # the columns of metrics.csv, (N,) each
    path: Path  # the run directory
    name: str | None = None  # option name=


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directories", type=Path, nargs="+", help="directories that contain runs")
    parser.add_argument("--by", nargs="+", default=[], help="settings to compare the runs by")
    parser.add_argument("--metrics", nargs="+", default=METRICS, help="metrics whose mean is shown")
    parser.add_argument("--medians", nargs="*", default=[], help="metrics whose median is shown")
    parser.add_argument("--figure", type=Path, help="path of the plot to write")
    arguments = parser.parse_args()
    if arguments.figure and not arguments.by:
        parser.error("--figure: plots against a setting. Add --by")
    try:
        runs = find_runs(arguments.directories, arguments.by)
        print(format_table(runs, arguments.by, arguments.metrics, arguments.medians))
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    if arguments.figure:
        plot(runs, arguments.by, arguments.metrics[0], arguments.figure)


def find_runs(directories: list[Path], by: list[str]) -> list[Run]:
    """Return the finished runs below the directories, sorted by their settings.

    Raises:
        FileNotFoundError: if there is no finished run.
        ValueError: if no run has a setting of `by`.
    """
    runs = []
    for path in sorted(path for root in directories for path in root.rglob("summary.csv")):
        config = next(
            (p / "config.yaml" for p in path.parents if (p / "config.yaml").is_file()), None
        )
        if config is None:
            raise FileNotFoundError(f"{path}: no config.yaml in this directory or above it")
        cfg = OmegaConf.load(config)
        settings = tuple(OmegaConf.select(cfg, key) for key in by)
        with (path.parent / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = [name for name in rows[0] if name != "name"]
        columns = {name: torch.tensor([float(row[name]) for row in rows]) for name in names}
        runs.append(Run(settings, columns, config.parent, OmegaConf.select(cfg, "name")))
    if not runs:
        raise FileNotFoundError(f"no finished run below {', '.join(map(str, directories))}")
    for key, values in zip(by, zip(*(run.settings for run in runs), strict=True), strict=True):
        if all(value is None for value in values):
            raise ValueError(f"--by {key}: no run has this setting in its config.yaml")
    return sorted(runs, key=lambda run: [sort_key(setting) for setting in run.settings])


def sort_key(setting: Any) -> tuple[bool, float, str]:
    """Return a sort key: numbers by value, then everything else by name."""
    if isinstance(setting, (int, float)):
        return False, setting, ""
    return True, 0, str(setting)


def format_table(runs: list[Run], by: list[str], means: list[str], medians: list[str]) -> str:
    """Format the runs as a Markdown table.

    The columns are the name, if a run has one or if there are no settings, the settings, the number
    of images, means with 95% intervals, and medians.

    Raises:
        ValueError: if a metric is not in metrics.csv.
    """
    for name in [*means, *medians]:
        if name not in runs[0].metrics:
            raise ValueError(
                f"{name}: not a column of metrics.csv. Use one of {', '.join(runs[0].metrics)}"
            )
    labels = [run.name or ("" if by else str(run.path)) for run in runs]
    labeled = any(labels)
    header = [
        *(["name" if by else "run"] if labeled else []),
        *by,
        "images",
        *means,
        *(f"median {name}" for name in medians),
    ]
    lines = [header, ["---"] * len(header)]
    for run, label in zip(runs, labels, strict=True):
        count = str(len(run.metrics[means[0]]))
        lines.append(
            [
                *([label] if labeled else []),
                *map(short_name, run.settings),
                count,
                *(format_mean(run.metrics[name]) for name in means),
                *(f"{run.metrics[name].median():.4g}" for name in medians),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def format_mean(values: torch.Tensor) -> str:
    """Format the mean of values (N,) and, for two or more, its 95% bootstrap interval."""
    mean, low, high = mean_interval(values)
    return f"{mean:.4g} [{low:.4g}, {high:.4g}]" if len(values) > 1 else f"{mean:.4g}"


def short_name(setting: Any) -> str:
    """Shorten the path of a class or function of the package to its name."""
    text = str(setting)
    return text.rsplit(".", 1)[-1] if text.startswith("dcgan_inpaint.") else text


def plot(runs: list[Run], by: list[str], metric: str, path: Path) -> None:
    """Plot a metric with its interval against the last setting, a line per value of the others."""
    import matplotlib.pyplot as plt  # an optional dependency

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for others in dict.fromkeys(run.settings[:-1] for run in runs):
        line = [run for run in runs if run.settings[:-1] == others]
        x = [float(run.settings[-1]) for run in line]
        mean, low, high = zip(*(mean_interval(run.metrics[metric]) for run in line), strict=True)
        errors = [
            [m - lo for m, lo in zip(mean, low, strict=True)],
            [hi - m for m, hi in zip(mean, high, strict=True)],
        ]
        label = ", ".join(f"{key} {short_name(s)}" for key, s in zip(by[:-1], others, strict=True))
        axes.errorbar(x, mean, errors, marker="o", capsize=3, label=label or None)
    values = sorted({float(run.settings[-1]) for run in runs})
    positive = [value for value in values if value > 0]
    if positive[-1] >= 20 * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0])
    if len(values) <= 6:  # the labels of more ticks would overlap
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.minorticks_off()
    axes.set_xlabel(by[-1])
    axes.set_ylabel(f"{metric}, dB" if "psnr" in metric else metric)
    axes.set_title(f"{metric} against {by[-1]}: mean and 95% interval")
    axes.grid(alpha=0.3)
    if len(by) > 1:
        axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()

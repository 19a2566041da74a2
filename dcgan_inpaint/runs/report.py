"""Report of a completion run: grids, tables and index.html, derived from its records.

`python -m dcgan_inpaint.runs.report RUN_DIR` rebuilds it, also for a run of an earlier version.
"""

import argparse
import base64
import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.errors import tolerate_closed_pipes
from dcgan_inpaint.files import PNG_LEVEL, atomic_write, save_image, write_csv
from dcgan_inpaint.images import make_grid, save_gif
from dcgan_inpaint.metrics.completions import mean_interval
from dcgan_inpaint.metrics.sets import Interval, compare_sets
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.runs.records import LOSSES, Record, read_records, write_images

Summary = dict[str, Interval]  # mean and 95% interval of each metric

GRIDS = ("before", "masked", "generated", "completed", "mean", "spread")
ROWS = ("before", "masked", "completed")  # of each band of rows.png
BAND_IMAGES, BANDS, BAND_GAP = 8, 3, 12  # images in a band, most bands, and px between two bands
ARRAYS = {"z": "z.npy", "frame_z": "z_frames.npy", "features": "features.npy"}
PAGE_COLUMNS = ("before", "masked", "completed", "candidates", "mean", "spread")
HISTOGRAM_BINS = 20
MONITOR_FILE = "monitor.csv"  # values of a metric during a training: iteration, value


def write_report(run_dir: Path, records: Iterable[Record], photos: Photos | None = None) -> Summary:
    """Write the report of a run, and return the summary of its metrics.

    - Image files of each record that are missing or damaged (`write_images`).
    - `GRIDS`, frames/ and search.gif of the first 64 images; rows.png of the first 24.
    - metrics.csv: the metrics of each image; summary.csv: means with 95% intervals over images,
      and the metrics of all completions against all images (metrics/sets.py).
    - trace.csv: iteration and losses of each search.
    - `ARRAYS`: z (N, z_dim), z_frames (N, F, z_dim), features (N, 2, 1280).
    - index.html: summary, curves and the first images in one file, and links to the photos.  The
      validation at the end of a training has the curve of its MONITOR_FILE.

    Args:
        run_dir: The run directory.
        records: The records of all images in order, at least one; each is read once.
        photos: The photos that the images were cropped from, if any.
    """
    first: list[Record] = []  # records with the tensors of the grids
    fakes: dict[int, list[Tensor]] = {}
    metrics: dict[str, dict[str, float]] = {}
    traces: dict[str, Tensor] = {}
    arrays: dict[str, list[Tensor]] = {name: [] for name in ARRAYS}
    for i, record in enumerate(records):
        write_images(run_dir, i, record, photos, fakes)
        metrics[record.name] = record.metrics
        if "before" in record.tensors:
            first.append(record)
        if "trace" in record.tensors:
            traces[record.name] = record.tensors["trace"]
        for name in ARRAYS.keys() & record.tensors.keys():
            arrays[name].append(record.tensors[name])
    _write_grids(run_dir, [record.tensors for record in first])
    for name, tensors in arrays.items():
        if tensors:
            with atomic_write(run_dir / ARRAYS[name]) as file:
                np.save(file, torch.stack(tensors).numpy())
    if traces:
        losses = ([name, t, *row] for name, x in traces.items() for t, row in enumerate(x.tolist()))
        write_csv(run_dir / "trace.csv", [["name", "iteration", *LOSSES], *losses])
    rows = [[name, *values.values()] for name, values in metrics.items()]
    write_csv(run_dir / "metrics.csv", [["name", *next(iter(metrics.values()))], *rows])
    summary = _summarize(list(metrics.values()), arrays["features"])
    means = [[name, *values, len(metrics)] for name, values in summary.items()]
    write_csv(run_dir / "summary.csv", [["metric", "mean", "low", "high", "images"], *means])
    objectives = [trace[:, LOSSES.index("total")] for trace in traces.values()]
    objective = torch.stack(objectives).mean(0) if objectives else None
    psnr = {name: values["psnr_hole"] for name, values in metrics.items()}
    monitored = _read_monitor(run_dir / MONITOR_FILE)
    write_page(run_dir / "index.html", run_dir.name, first, psnr, objective, summary, monitored)
    return summary


def _read_monitor(path: Path) -> tuple[str, list[int], Tensor] | None:
    """Return the name of the metric in a MONITOR_FILE, the iterations and the values (N,)."""
    if not path.is_file():
        return None
    with path.open(newline="") as file:
        (_, name), *rows = csv.reader(file)
    return name, [int(row[0]) for row in rows], torch.tensor([float(row[1]) for row in rows])


def _write_grids(run_dir: Path, first: Sequence[Mapping[str, Tensor]]) -> None:
    for name in GRIDS:
        if name in first[0]:
            images = torch.stack([each[name] for each in first])
            save_image(run_dir / f"{name}.png", make_grid(images))
    save_image(run_dir / "rows.png", _make_bands(first[: BAND_IMAGES * BANDS]))
    if "frames" in first[0]:
        frames = [*map(make_grid, torch.stack([each["frames"] for each in first], 1))]
        for t, frame in zip(first[0]["frame_iterations"].tolist(), frames, strict=True):
            save_image(run_dir / "frames" / f"{t:05d}.png", frame)
        with atomic_write(run_dir / "search.gif") as file:
            save_gif(frames, file)


def _make_bands(first: Sequence[Mapping[str, Tensor]]) -> Image.Image:
    """Arrange images in bands of eight; a band has the rows `ROWS`."""
    bands = []
    for start in range(0, len(first), BAND_IMAGES):
        band = first[start : start + BAND_IMAGES]
        images = torch.stack([each[name] for name in ROWS for each in band])
        bands.append(make_grid(images, columns=len(band)))
    height = bands[0].height + BAND_GAP
    sheet = Image.new("RGB", (bands[0].width, height * len(bands) - BAND_GAP), "white")
    for i, grid in enumerate(bands):
        sheet.paste(grid, (0, height * i))
    return sheet


def _summarize(metrics: list[dict[str, float]], features: list[Tensor]) -> Summary:
    """Summarize the metrics that all images have; `features` are (2, 1280) each, or none."""
    columns = torch.tensor([[*row.values()] for row in metrics], dtype=torch.float64).unbind(1)
    summary = {
        name: mean_interval(values)
        for name, values in zip(metrics[0], columns, strict=True)
        if not values.isnan().any()
    }
    if len(features) > 1:
        fake, real = torch.stack(features).unbind(1)  # (N, 1280) each
        metrics_of_sets = compare_sets(fake, real, paired=True)
        summary |= {name: row for name, row in metrics_of_sets.items() if not math.isnan(row[0])}
    return summary


def format_summary(summary: Summary) -> str:
    """Return the mean PSNR and SSIM in one line."""
    return ", ".join(
        f"{name} {mean:.2f} dB" if name.startswith("psnr") else f"{name} {mean:.3f}"
        for name, (mean, *_) in summary.items()
        if name.startswith(("psnr", "ssim"))
    )


def write_page(
    path: Path,
    title: str,
    first: Sequence[Record],
    psnr: Mapping[str, float],
    objective: Tensor | None,
    summary: Summary,
    monitored: tuple[str, list[int], Tensor] | None = None,
) -> None:
    """Write an HTML page that contains the images of the model's size and shows those in photos/.

    Args:
        path: The HTML file, in the run directory.
        title: Title of the page.
        first: Records of the images in the table.
        psnr: PSNR over the hole of each image by name, in dB; not finite if unknown.
        objective: Mean total loss (T + 1,) of the searches, or None.
        summary: The summary of the metrics.
        monitored: Name, iterations and values (N,) of a metric during the training, or None.
    """
    known = {name: value for name, value in psnr.items() if math.isfinite(value)}
    loader = PackageLoader("dcgan_inpaint.runs", ".")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    text = template.get_template("report.html").render(
        title=title,
        count=len(psnr),
        photos=[each.name for each in first if (path.parent / f"photos/{each.name}.png").is_file()],
        summary=summary,
        histogram=_histogram(torch.tensor([*known.values()])) if len(known) > 1 else None,
        curve=None if objective is None or len(objective) < 2 else _curve(objective),
        monitored=_monitor_curve(*monitored) if monitored and len(monitored[1]) > 1 else None,
        columns=[name for name in PAGE_COLUMNS if any(name in each.tensors for each in first)],
        records=first,
        psnr=known,
        png=_png,
    )
    with atomic_write(path) as file:
        file.write(text.encode(errors="replace"))  # a path may not be UTF-8


def _png(images: Tensor) -> str:
    """Return one image (C, S, S), or a row of images (K, C, S, S), uint8, as base64."""
    image = make_grid(images, columns=len(images)) if images.dim() == 4 else to_pil_image(images)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return base64.b64encode(buffer.getvalue()).decode()


def _histogram(values: Tensor) -> dict[str, object]:
    """Return the counts of values (N,) per bin, relative to the largest, and the range."""
    low, high = float(values.min()), float(values.max())
    # A range of zero width would have no bins.
    counts = torch.histc(values, HISTOGRAM_BINS, low, max(high, low + 1e-6))
    return {"shares": (counts / counts.max()).tolist(), "low": low, "high": high}


def _curve(values: Tensor) -> dict[str, object]:
    """Return values (T,) scaled to [0, 1], and the largest."""
    low, high = float(values.min()), float(values.max())
    return {"shares": ((values - low) / max(high - low, 1e-12)).tolist(), "high": high}


def _monitor_curve(name: str, iterations: list[int], values: Tensor) -> dict[str, object]:
    return {"name": name, "first": iterations[0], "last": iterations[-1]} | _curve(values)


def main() -> None:
    """Rebuild the report of a run directory from its records; photos are left as they are."""
    tolerate_closed_pipes()
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("run_dir", type=Path, help="directory of a completion run")
    run_dir = parser.parse_args().run_dir
    if next(read_records(run_dir), None) is None:
        parser.error(f"{run_dir}: no complete records. Give the directory of a completion run")
    print(format_summary(write_report(run_dir, read_records(run_dir))))
    print(run_dir / "index.html")


if __name__ == "__main__":
    main()

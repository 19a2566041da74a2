"""index.html of a completion run: all that one looks at first, in one file that opens from disk."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.files import atomic_write
from dcgan_inpaint.images import grid
from dcgan_inpaint.runs.records import Kept

COLUMNS = {  # of the table of images: what is kept
    "original": "before",
    "masked": "masked",
    "completed": "completed",
    "candidates": "candidates",
    "mean": "mean",
    "spread": "spread",
}
BINS = 20  # of the histogram


def write_page(
    path: Path,
    title: str,
    names: Sequence[str],
    first: Sequence[Kept],
    psnr: Sequence[float],
    trace: Tensor | None,
    summary: Mapping[str, tuple[float, float, float]],
) -> None:
    """Of images `names` (N): the records of the `first` few, the `psnr` (N) of their holes in dB,
    not finite where nobody knows what was there, the mean objective `trace` (T + 1,) of a search,
    and of each metric mean, low and high."""
    known = [value for value in psnr if math.isfinite(value)]
    rows = [
        {
            "name": names[i],
            "psnr": psnr[i] if math.isfinite(psnr[i]) else None,
            "images": {title: _png(kept[name]) for title, name in COLUMNS.items() if name in kept},
        }
        for i, kept in enumerate(first)
    ]
    loader = PackageLoader("dcgan_inpaint.runs", ".")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    text = template.get_template("page.html").render(
        title=title,
        count=len(names),
        summary=summary,
        histogram=_histogram(torch.tensor(known)) if len(known) > 1 else None,
        curve=None if trace is None or len(trace) < 2 else _curve(trace),
        columns=[title for title, name in COLUMNS.items() if any(name in kept for kept in first)],
        rows=rows,
    )
    with atomic_write(path) as file:
        file.write(text.encode())


def _png(images: Tensor) -> str:
    """One image (C, S, S) or several beside each other (K, C, S, S), uint8, as base64."""
    several = images.dim() == 4
    image = grid(images, columns=len(images)) if several else to_pil_image(images)
    held = io.BytesIO()
    image.save(held, "PNG")
    return base64.b64encode(held.getvalue()).decode()


def _histogram(values: Tensor) -> dict[str, object]:
    """How many of `values` (N,) lie in each of BINS, as shares of the largest."""
    low, high = float(values.min()), float(values.max())
    counts = torch.histc(values, BINS, low, max(high, low + 1e-6))
    return {"shares": (counts / counts.max()).tolist(), "low": low, "high": high}


def _curve(values: Tensor) -> dict[str, object]:
    """`values` (T,) as shares of their largest, the lowest at 0."""
    low, high = float(values.min()), float(values.max())
    return {"shares": ((values - low) / max(high - low, 1e-12)).tolist(), "high": high}

"""Plotting style and helpers of the notebooks."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib_inline.backend_inline import set_matplotlib_formats
from torch import Tensor

from dcgan_inpaint.images import make_grid

plt.style.use("tableau-colorblind10")
plt.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 80})
set_matplotlib_formats("jpeg", pil_kwargs={"quality": 90})  # faces as PNG are three times as large


def show_rows(
    images: Tensor | Sequence[Tensor],
    title: str,
    down: Sequence[str] = (),
    across: Sequence[str] = (),
    axes: Axes | None = None,
    inches: float = 0.95,
) -> None:
    """Plot rows of images.

    Args:
        images: Images (R, N, C, S, S) in [-1, 1], or a sequence of R rows.
        title: Title of the plot.
        down: Labels of the rows.
        across: Labels of the columns.
        axes: Axes to plot on; by default those of a new figure.
        inches: Size of each image in a new figure.
    """
    if not isinstance(images, Tensor):
        images = torch.stack(list(images))
    rows, columns, _, size, _ = images.shape
    if axes is None:
        _, axes = plt.subplots(figsize=(columns * inches + 1, rows * inches + 0.6))
    axes.imshow(make_grid(images.flatten(0, 1), columns))
    center = 2 + (size - 1) / 2  # `grid` adds a white margin of 2 px to each image
    axes.set_yticks([center + i * (size + 2) for i in range(len(down))], down)
    axes.set_xticks([center + i * (size + 2) for i in range(len(across))], across)
    axes.tick_params(length=0, bottom=False, labelbottom=False, labeltop=True)
    axes.spines[:].set_visible(False)
    axes.set_title(title)

"""Shared code of the experiments: running completions and formatting tables."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor

from dcgan_inpaint.data.batches import make_dataloader
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.data.sources import resolve_source
from dcgan_inpaint.inpainting.build import build, load_configured
from dcgan_inpaint.metrics.completions import mean_interval


class CompletionRun:
    """A model, its inpainting module and its data, from the overrides of inpaint.py.

    Args:
        overrides: overrides of inpaint.py, for example "candidates=8".
    """

    def __init__(self, overrides: Sequence[str]):
        self.config, self.model = load_configured(["ckpt=faces64", *overrides])
        self.module = build(self.config, self.model, instantiate(self.config.mask))
        chosen = instantiate(self.config.data)
        source = resolve_source(
            chosen, self.model.data, self.model.image_shape, str(self.config.ckpt)
        )
        self.data = ImageDataModule(source, self.config.cache_dir)

    def subset(self, split: str) -> torch.utils.data.Subset:
        """Return the first `limit` images of a split."""
        images = self.data.split(split)
        count = min(self.config.limit or len(images), len(images))
        return torch.utils.data.Subset(images, range(count))

    def completions(self) -> Iterator[Any]:
        """Complete the first `limit` images of `split`, and yield a completion per batch."""
        for batch in make_dataloader(self.subset(self.config.split), self.config.batch_size):
            yield self.module.predict_step(batch)


def format_interval(values: Tensor, digits: int = 2) -> str:
    """Format the mean of values (N,) and its 95% bootstrap interval: "21.46 [21.22, 21.72]"."""
    mean, low, high = (f"{value:.{digits}f}" for value in mean_interval(values))
    return f"{mean} [{low}, {high}]" if len(values) > 1 else mean


def markdown_row(cells: Sequence[object]) -> str:
    """Format one row of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"

"""Data sets that return whole batches, and the order of their images."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dcgan_inpaint.data.augmentation import random_flip
from dcgan_inpaint.data.mixture import mixed_order
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.files import shorten_name
from dcgan_inpaint.images import to_float
from dcgan_inpaint.randomness import permutation


def make_batch(
    images: np.ndarray,
    indices: Sequence[int],
    flip: bool,
    seed: int,
    epoch: int,
    valid: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return a batch: {"image": (B, C, S, S) float in [-1, 1], "index": (B,) int64}.

    With `valid`, the batch also has the key "valid", (B, 1, S, S) float with 1 = known, and its
    images are 0 where they are unknown.

    Args:
        images: uint8 (B, C, S, S).
        indices: Index of each image in its split.
        flip: Whether to mirror image i in half of the epochs, as (seed, epoch, i) determine.
        valid: (B, 1, S, S) with 1 = known, or None if all pixels are known.
    """
    index = torch.tensor(indices)
    batch = to_float(images)  # (B, C, S, S)
    if valid is not None:
        batch = torch.cat([batch * valid, valid], 1)  # (B, C + 1, S, S): mirrored together
    if flip:
        batch = random_flip(batch, index, seed, epoch)
    channels = images.shape[1]
    image = batch[:, :channels].contiguous(memory_format=torch.channels_last)  # (B, C, S, S)
    if valid is None:
        return {"image": image, "index": index}
    return {"image": image, "valid": batch[:, channels:].contiguous(), "index": index}


class ImageDataset(Dataset):
    """Images in memory or in a memory map, read a batch at a time; see `make_batch`.

    Args:
        images: uint8 (N, C, S, S).
        names: Name of each image.
        flip: Whether to mirror each image in half of the epochs.
        seed: Seed of the flips.
        valid: Known pixels of every image, (1, S, S) with 1 = known; None if all are known.
    """

    def __init__(
        self,
        images: np.ndarray,
        names: list[str],
        flip: bool = False,
        seed: int = 0,
        valid: Tensor | None = None,
    ):
        self.images, self.names, self.flip, self.seed = images, names, flip, seed
        self.valid = valid
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def labels(self) -> list[str]:
        """Unique file names of the images, valid on every file system."""
        return [f"{i:05d}_{shorten_name(Path(name).stem)}" for i, name in enumerate(self.names)]

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        valid = None if self.valid is None else self.valid.expand(len(indices), -1, -1, -1)
        return make_batch(self.images[indices], indices, self.flip, self.seed, self.epoch, valid)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


class MixtureDataset(Dataset):
    """Images of several data sets, whose indices follow each other; see `make_batch`.

    Batches have the key "valid" if a part has unknown pixels.

    Args:
        parts: Data sets of images (N, C, S, S).
        flip: Whether to mirror each image in half of the epochs.
        seed: Seed of the flips.
    """

    def __init__(self, parts: Sequence[ImageDataset], flip: bool = False, seed: int = 0):
        self.parts, self.flip, self.seed = parts, flip, seed
        self.ends = np.cumsum([len(part) for part in parts])
        self.epoch = 0
        self.valid = None
        if any(part.valid is not None for part in parts):
            known = torch.ones(1, *parts[0].images.shape[2:])
            masks = [known if part.valid is None else part.valid for part in parts]
            self.valid = torch.stack(masks)  # (parts, 1, S, S)

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        index = np.array(indices)
        number = np.searchsorted(self.ends, index, side="right")  # (B,): the part of each image
        images = np.empty((len(index), *self.parts[0].images.shape[1:]), np.uint8)
        for i, part in enumerate(self.parts):
            images[number == i] = part.images[index[number == i] - self.ends[i] + len(part)]
        valid = None if self.valid is None else self.valid[torch.from_numpy(number)]
        return make_batch(images, indices, self.flip, self.seed, self.epoch, valid)


class EpochSampler(Sampler[int]):
    """Sampler of an order that depends on (seed, epoch) only, so that training resumes exactly.

    Lightning calls `set_epoch`, which also sets the epoch of the flips.

    Args:
        images: The data set to shuffle.
        seed: Seed of the order.
        rank: Rank of this process, which takes every `world_size`-th image from this position.
        world_size: Number of processes; each gets equally many images.
    """

    def __init__(self, images: ImageDataset, seed: int, rank: int = 0, world_size: int = 1):
        self.images, self.seed, self.rank, self.world_size = images, seed, rank, world_size

    def set_epoch(self, epoch: int) -> None:
        self.images.epoch = epoch

    def __len__(self) -> int:
        return len(self.images) // self.world_size

    def __iter__(self) -> Iterator[int]:
        stream = f"order {self.images.epoch}"
        order = permutation(stream, self.seed, len(self.images)).tolist()
        return iter(order[self.rank :: self.world_size][: len(self)])


class MixtureSampler(Sampler[int]):
    """Sampler of batches with fixed shares; (seed, epoch) determine them, as in `EpochSampler`.

    Args:
        images: The data set; as many images are drawn in an epoch.
        groups: Indices and share of each group of images (`Mixture.groups`).
        batch_size: Images per batch.
        seed: Seed of the order.
        rank: Rank of this process, which takes every `world_size`-th batch from this position.
        world_size: Number of processes; each gets equally many batches.
    """

    def __init__(
        self,
        images: MixtureDataset,
        groups: Sequence[tuple[Tensor, float]],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.images, self.groups, self.batch_size, self.seed = images, groups, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.batches = len(images) // (batch_size * world_size)

    def set_epoch(self, epoch: int) -> None:
        self.images.epoch = epoch

    def __len__(self) -> int:
        return self.batches * self.batch_size

    def __iter__(self) -> Iterator[int]:
        batches = self.batches * self.world_size
        order = mixed_order(self.groups, batches, self.batch_size, self.seed, self.images.epoch)
        return iter(order[self.rank :: self.world_size].flatten().tolist())


def make_dataloader(images: Dataset, batch_size: int, **options: Any) -> DataLoader:
    """Return a DataLoader; the data set returns complete batches, so nothing is collated."""
    return DataLoader(images, batch_size, collate_fn=lambda batch: batch, **options)


def check_fills_batch(count: int, batch_size: int) -> None:
    """Raise ValueError if `count` training images do not fill one batch."""
    if count < batch_size:
        raise ValueError(
            f"batch_size={batch_size}: exceeds the {format_count(count, 'training image')}. "
            f"Use batch_size={count} or less"
        )

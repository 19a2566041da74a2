"""One LightningDataModule for every source: memory-mapped splits read by index, and what is larger
than its limit read in a stream (data/streaming.py)."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, Subset

from dcgan_inpaint.configs import Count, Seed, Text, checked
from dcgan_inpaint.data.augmentation import mirrored
from dcgan_inpaint.data.cache import Source, load_split
from dcgan_inpaint.data.parts import Parts
from dcgan_inpaint.data.streaming import Streamed, check_limit, is_over_limit
from dcgan_inpaint.images import to_float
from dcgan_inpaint.randomness import permutation


class Images(Dataset):
    """uint8 images (N, C, S, S), in memory or memory-mapped, read a whole batch at a time.

    A batch is {"image": (B, C, S, S) float in [-1, 1], "index": (B,) int64}.  With `flip`, image
    i is mirrored left to right in half of the epochs, as (seed, epoch, i) says.
    """

    def __init__(self, images: np.ndarray, names: list[str], flip: bool = False, seed: int = 0):
        self.images, self.names, self.flip, self.seed = images, names, flip, seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> list[str]:
        """A file name for each image that no other has, and that every disk takes."""
        return [f"{i:05d}_{_short(Path(name).stem)}" for i, name in enumerate(self.names)]

    def __getitems__(self, indices: list[int]) -> dict[str, Tensor]:
        index = torch.tensor(indices)
        images = to_float(self.images[indices])  # (B, C, S, S)
        if self.flip:
            images = mirrored(images, index, self.seed, self.epoch)
        return {"image": images.contiguous(memory_format=torch.channels_last), "index": index}

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: value[0] for key, value in self.__getitems__([index]).items()}


class EpochOrder(Sampler[int]):
    """A shuffled order that follows from (seed, epoch): a resumed run is as if never stopped.

    Lightning calls `set_epoch`.  The flips of the images follow the same epoch.  Each of `shares`
    processes has its own part of the order, all as long: its `rank`-th image and every
    shares-th from there.
    """

    def __init__(self, images: Images, seed: int, rank: int = 0, shares: int = 1):
        self.images, self.seed, self.rank, self.shares = images, seed, rank, shares

    def set_epoch(self, epoch: int) -> None:
        self.images.epoch = epoch

    def __len__(self) -> int:
        return len(self.images) // self.shares

    def __iter__(self) -> Iterator[int]:
        stream = f"order {self.images.epoch}"
        order = permutation(stream, self.seed, len(self.images)).tolist()
        return iter(order[self.rank :: self.shares][: len(self)])


class ImageData(LightningDataModule):
    """Training batches of a source, and its splits.

    `batch_size` images a batch; the last, short one of an epoch is left out.
    """

    @checked
    def __init__(
        self,
        source: Source,
        cache_dir: Text,
        batch_size: Count = 64,
        flip: bool = True,
        seed: Seed = 0,
    ):
        super().__init__()
        self.source, self.cache_dir = source, cache_dir
        self.batch_size, self.flip, self.seed = batch_size, flip, seed

    def split(self, name: str, flip: bool = False, least: int = 1) -> Images:
        """The images of "train", "val" or "test", decoded on first use (data/cache.py).

        Raises what `load_split` does, and ValueError for fewer than `least`, or more than the
        source's cache_limit.
        """
        check_limit(self.source, name)
        images, names = load_split(self.source, name, self.cache_dir)
        if len(images) < least:
            raise ValueError(
                f"{len(images)} image in the {name} split, where {least} are needed to compare"
            )
        return Images(images, names, flip, self.seed)

    def prepare_data(self) -> None:
        """Decode the training split, but for one that is streamed.

        Raises ValueError when it does not fill one batch.
        """
        if is_over_limit(self.source, "train"):
            self._streamed()
            return
        n = len(self.split("train")) // self._place[1]
        if n < self.batch_size:
            raise ValueError(
                f"{n} training images do not fill one batch: use batch_size={n} or less"
            )

    def train_dataloader(self) -> DataLoader | Streamed:
        if is_over_limit(self.source, "train"):
            return self._streamed()
        images = self.split("train", flip=self.flip)
        order = EpochOrder(images, self.seed, *self._place)
        return batches(images, self.batch_size, sampler=order, drop_last=True)

    def _streamed(self) -> Streamed:
        assert isinstance(self.source, Parts)  # others have no limit
        return Streamed(self.source, self.batch_size, self.flip, self.seed, *self._place)

    @property
    def _place(self) -> tuple[int, int]:
        """The rank of this process, and how many train together."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def _short(name: str) -> str:
    """Up to 200 bytes of a name, in UTF-8 whatever it was."""
    text = os.fsencode(name).decode(errors="replace")
    return text.encode()[:200].decode(errors="ignore")


def batches(images: Images | Subset, batch_size: int, **settings: Any) -> DataLoader:
    """A DataLoader over images, which come as whole batches: nothing to collate."""
    return DataLoader(images, batch_size, collate_fn=lambda batch: batch, **settings)

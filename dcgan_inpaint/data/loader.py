"""LightningDataModule of all sources, with batches from a memory map or a stream."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, count, groupby, islice
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from dcgan_inpaint.configs import Count, Seed, Text, checked
from dcgan_inpaint.data.augmentation import random_flip
from dcgan_inpaint.data.cache import (
    CHUNK_IMAGES,
    Source,
    check_unreadable,
    image_bytes,
    load_split,
    valid_mask,
    warn_unreadable,
)
from dcgan_inpaint.data.decoding import PartitionedSource, UnreadableImage
from dcgan_inpaint.data.mixture import Mixture, mixed_order
from dcgan_inpaint.images import to_float
from dcgan_inpaint.randomness import permutation, uniform

# Streaming is own code: `datasets` would become a core dependency to read tar files, and
# `webdataset` executes "pipe:" URLs.
BUFFER_BYTES = 2**28  # decoded images to choose from: 21,845 color images at 64 px
PIECE_IMAGES = 256  # read in a row; a large shard in one piece would fill the whole buffer
Item = TypeVar("Item")


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

    @property
    def labels(self) -> list[str]:
        """Unique file names of the images, valid on every file system."""
        return [f"{i:05d}_{_short(Path(name).stem)}" for i, name in enumerate(self.names)]

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


class StreamedBatches:
    """Training batches of a source that exceeds its `cache_limit`; each iteration is one epoch.

    The batches are those of `ImageDataset`, with the indices of `source.items("train")`, and a
    last partial batch is dropped.  The order follows from (seed, epoch) in two steps: pieces of
    the shards are read in random order, and each next image leaves a buffer at random.  So a
    training that is resumed at an epoch continues exactly, as with a memory map.

    Unreadable images produce a warning, and as many others repeat in that epoch.

    Args:
        source: Source with a `cache_limit`.
        batch_size: Images per batch.
        flip: Whether to mirror each image in half of the epochs.
        seed: Seed of the order and of the flips.
        rank: Rank of this process, which reads its own share of the pieces.
        world_size: Number of processes; each yields equally many batches.

    Raises:
        ValueError: If a batch exceeds the limit, or the images do not fill one batch.
        OSError: During iteration, if more than 1% of the images cannot be read.
    """

    def __init__(
        self,
        source: PartitionedSource,
        batch_size: int,
        flip: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.source, self.batch_size, self.flip, self.seed = source, batch_size, flip, seed
        self.names = source.items("train")
        self.rank, self.count = rank, len(self.names) // world_size
        limit, image_size = round((source.cache_limit or 0) * 1e9), image_bytes(source)
        if batch_size * image_size > limit:
            raise ValueError(
                f"data.cache_limit={source.cache_limit}: a batch of {batch_size} images is "
                f"{batch_size * image_size / 1e9:.3g} GB. Use a larger limit or smaller batches"
            )
        # The buffer takes no more memory than a memory map would have been allowed.
        self.buffer = max(batch_size, min(limit, BUFFER_BYTES) // image_size)  # images
        check_fills_batch(self.count, batch_size)
        self.sampler = self  # Lightning calls set_epoch on it
        self.epoch = 0

    @cached_property
    def pieces(self) -> list[range]:
        """Ranges of consecutive images within one shard each."""

        def piece(i: int) -> tuple[str, int]:
            return self.source.shard(self.names[i]), i // PIECE_IMAGES

        runs = (list(run) for _, run in groupby(range(len(self.names)), piece))
        return [range(run[0], run[-1] + 1) for run in runs]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        stream = f"buffer {self.epoch} {self.rank}"
        samples = shuffle_buffer(self._readable_images(), self.buffer, stream, self.seed)
        valid = valid_mask(self.source)
        for _ in range(len(self)):
            indices, images = zip(*islice(samples, self.batch_size), strict=True)
            rows = None if valid is None else valid.expand(self.batch_size, -1, -1, -1)
            yield make_batch(np.stack(images), indices, self.flip, self.seed, self.epoch, rows)

    def _reading_order(self) -> Iterator[int]:
        """Return the indices that this process reads: its share of the pieces in random order."""
        pieces = permutation(f"pieces {self.epoch}", self.seed, len(self.pieces)).tolist()
        indices = chain.from_iterable(self.pieces[piece] for piece in pieces)
        return islice(indices, self.rank * self.count, (self.rank + 1) * self.count)

    def _readable_images(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield index and uint8 (C, S, S) of `count` images.

        The first images repeat in place of unreadable ones, because the processes wait for each
        other at every batch.
        """
        unreadable: list[UnreadableImage] = []
        for index, image in self._decoded_images():
            if not isinstance(image, UnreadableImage):
                yield index, image
                continue
            unreadable.append(image)
            check_unreadable(len(unreadable), self.count, "train", unreadable[0], OSError)
        if unreadable:
            warn_unreadable(len(unreadable), self.count, "train", unreadable[0])
            yield from islice(self._readable_images(), len(unreadable))

    def _decoded_images(self) -> Iterator[tuple[int, np.ndarray | UnreadableImage]]:
        """Yield index and image in reading order; the next chunk is decoded in a thread."""
        indices = self._reading_order()
        with ThreadPoolExecutor(1) as pool:

            def submit() -> tuple[list[int], Future]:
                chunk = list(islice(indices, CHUNK_IMAGES))
                return chunk, pool.submit(self.source.decode, [self.names[i] for i in chunk])

            chunk, decoding = submit()
            while chunk:
                following = submit()
                yield from zip(chunk, decoding.result(), strict=True)
                chunk, decoding = following


def shuffle_buffer(items: Iterator[Item], size: int, stream: str, seed: int) -> Iterator[Item]:
    """Yield each item once, chosen from a buffer of `size` items by (stream, seed).

    An item moves forward by at most `size` positions.
    """
    buffer: list[Item] = []
    numbers = chain.from_iterable(
        uniform(stream, seed, torch.arange(start, start + CHUNK_IMAGES), 1).flatten().tolist()
        for start in count(0, CHUNK_IMAGES)
    )
    for item in items:
        if len(buffer) < size:
            buffer.append(item)
            continue
        position = int(next(numbers) * size)
        yield buffer[position]
        buffer[position] = item
    while buffer:
        position = int(next(numbers) * len(buffer))
        buffer[position], buffer[-1] = buffer[-1], buffer[position]
        yield buffer.pop()


class ImageDataModule(LightningDataModule):
    """Training batches and splits of a source.

    The splits of a `Mixture` are those of its first source.

    Args:
        source: Where the images come from.
        cache_dir: Directory of the memory maps.
        batch_size: Images per batch; the last partial batch of an epoch is dropped.
        flip: Whether to mirror each training image in half of the epochs.
        seed: Seed of the order and of the flips.
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
        self.mixture = source if isinstance(source, Mixture) else None
        self.source = source.first if isinstance(source, Mixture) else source
        self.cache_dir = cache_dir
        self.batch_size, self.flip, self.seed = batch_size, flip, seed

    def split(self, name: str, flip: bool = False, least: int = 1) -> ImageDataset:
        """Return the images of "train", "val" or "test", decoded on first use.

        Raises ValueError if the split has fewer than `least` images or exceeds the source's
        cache_limit, and the errors of `load_split`.
        """
        if exceeds_cache_limit(self.source, name):
            size = len(self.source.items(name))
            gigabytes = size * image_bytes(self.source) / 1e9
            raise ValueError(
                f"data.cache_limit={self.source.cache_limit}: the {size} images of the {name} "
                f"split are {gigabytes:.3g} GB decoded, and only training "
                "images can be streamed. Use a larger limit or a smaller split"
            )
        images, names = load_split(self.source, name, self.cache_dir)
        if len(images) < least:
            raise ValueError(
                f"the {name} split has {len(images)} image, and at least {least} are needed"
            )
        return ImageDataset(images, names, flip, self.seed, valid_mask(self.source))

    def prepare_data(self) -> None:
        """Decode the training split, unless it is streamed.

        Raises ValueError if it does not fill one batch, and for a mixture that cannot be drawn.
        """
        if self.mixture is not None:
            self._mixed_batches()
        elif exceeds_cache_limit(self.source, "train"):
            self._streamed_batches()
        else:
            check_fills_batch(len(self.split("train")) // self._place[1], self.batch_size)

    def train_dataloader(self) -> DataLoader | StreamedBatches:
        if self.mixture is not None:
            return self._mixed_batches()
        if exceeds_cache_limit(self.source, "train"):
            return self._streamed_batches()
        images = self.split("train", flip=self.flip)
        sampler = EpochSampler(images, self.seed, *self._place)
        return make_dataloader(images, self.batch_size, sampler=sampler, drop_last=True)

    def _streamed_batches(self) -> StreamedBatches:
        assert isinstance(self.source, PartitionedSource)  # others have no limit
        return StreamedBatches(self.source, self.batch_size, self.flip, self.seed, *self._place)

    @cached_property
    def _mixed_images(self) -> tuple[MixtureDataset, list[tuple[Tensor, float]]]:
        """Training images of the mixture, and their groups; the skin tones are measured once."""
        assert self.mixture is not None
        parts = {}
        for name, source in self.mixture.sources.items():
            if exceeds_cache_limit(source, "train"):
                raise ValueError(
                    f"data.sources.{name}.cache_limit={source.cache_limit}: its training images "
                    "are larger, and a mixture cannot be streamed. Use a larger limit or null"
                )
            images, names = load_split(source, "train", self.cache_dir)
            parts[name] = ImageDataset(images, names, valid=valid_mask(source))
        groups = self.mixture.groups({name: part.images for name, part in parts.items()})
        return MixtureDataset(list(parts.values()), self.flip, self.seed), groups

    def _mixed_batches(self) -> DataLoader:
        images, groups = self._mixed_images
        rank, world_size = self._place
        check_fills_batch(len(images) // world_size, self.batch_size)
        sampler = MixtureSampler(images, groups, self.batch_size, self.seed, rank, world_size)
        return make_dataloader(images, self.batch_size, sampler=sampler)

    @property
    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def exceeds_cache_limit(source: Source, split: str) -> TypeGuard[PartitionedSource]:
    """Return whether a decoded split is larger than the cache_limit of its source."""
    limit = source.cache_limit if isinstance(source, PartitionedSource) else None
    return limit is not None and len(source.items(split)) * image_bytes(source) > limit * 1e9


def check_fills_batch(count: int, batch_size: int) -> None:
    """Raise ValueError if `count` training images do not fill one batch."""
    if count < batch_size:
        raise ValueError(
            f"batch_size={batch_size}: {count} training images do not fill one batch. "
            f"Use batch_size={count} or less"
        )


def make_dataloader(images: Dataset, batch_size: int, **options: Any) -> DataLoader:
    """Return a DataLoader; the data set returns complete batches, so nothing is collated."""
    return DataLoader(images, batch_size, collate_fn=lambda batch: batch, **options)


def _short(name: str) -> str:
    """Shorten a name to at most 200 bytes of valid UTF-8."""
    text = os.fsencode(name).decode(errors="replace")
    return text.encode()[:200].decode(errors="ignore")

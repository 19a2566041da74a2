"""Training batches of data sets that are too large for a memory map."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, count, groupby, islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dcgan_inpaint.data.batches import check_fills_batch, make_batch
from dcgan_inpaint.data.cache import (
    CHUNK_IMAGES,
    check_unreadable,
    image_bytes,
    select_items,
    valid_mask,
    warn_unreadable,
)
from dcgan_inpaint.data.decoding import PartitionedSource, UnreadableImage
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.randomness import permutation, uniform

# Streaming is own code: `datasets` would become a core dependency to read tar files, and
# `webdataset` executes "pipe:" URLs.
BUFFER_BYTES = 2**28  # decoded images to choose from: 21,845 color images at 64 px
PIECE_IMAGES = 256  # read in a row; a large shard in one piece would fill the whole buffer
Item = TypeVar("Item")


class StreamedBatches:
    """Training batches of a source that exceeds its `cache_limit`; each iteration is one epoch.

    The batches are those of `ImageDataset`, with the indices of `select_items`, and a
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
        limit: Number of images that are used (`select_items`), or None for all.

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
        limit: int | None = None,
    ):
        self.source, self.batch_size, self.flip, self.seed = source, batch_size, flip, seed
        self.names = select_items(source, "train", limit)
        self.rank, self.count = rank, len(self.names) // world_size
        cache_bytes, image_size = round((source.cache_limit or 0) * 1e9), image_bytes(source)
        if batch_size * image_size > cache_bytes:
            raise ValueError(
                f"data.cache_limit={source.cache_limit}: a batch of "
                f"{format_count(batch_size, 'image')} is "
                f"{batch_size * image_size / 1e9:.3g} GB. Use a larger limit or smaller batches"
            )
        # The buffer takes no more memory than a memory map would have been allowed.
        self.buffer = max(batch_size, min(cache_bytes, BUFFER_BYTES) // image_size)  # images
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

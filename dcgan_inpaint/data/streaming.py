"""Training images that are more than data.cache_limit: decoded in each epoch, shard by shard.

The order of an epoch is made of two draws: in which order pieces of the shards are read, and which
image leaves a buffer of those that were read.  Both follow from (seed, epoch), so a training goes
on as it does with a memory map: exactly, from the end of an epoch, which is when it is saved.
"""

import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import chain, count, groupby, islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from dcgan_inpaint.data.augmentation import mirrored
from dcgan_inpaint.data.cache import CHUNK, Source, too_many_unreadable
from dcgan_inpaint.data.decoding import UnreadableImage
from dcgan_inpaint.data.parts import Parts
from dcgan_inpaint.images import to_float
from dcgan_inpaint.randomness import permutation, uniform

BUFFER = 2**28  # bytes of decoded images that are drawn from: at 64 px in colour 21,845 of them
PIECE = 256  # images of a shard read in a row: of a large one more would fill the buffer alone
Item = TypeVar("Item")


class Streamed:
    """The training batches of a source that has a `cache_limit`; each iteration reads an epoch.

    A batch is {"image": (B, C, S, S) float in [-1, 1], "index": (B,) int64}, as those of `Images`
    are, the index that of `source.items("train")`.  Of `shares` processes each reads its own part
    of the epoch's pieces, the `rank`-th, and gives as many batches as the others; what does not
    fill one is left out.  With `flip`, images are mirrored as `Images` says.

    Unreadable images are named in a warning, and as many others come twice in that epoch.
    Raises ValueError where a batch is more than the limit or than there are images; while it
    reads, OSError once more than 1% of a process's images cannot be read.
    """

    def __init__(
        self,
        source: Parts,
        batch_size: int,
        flip: bool = False,
        seed: int = 0,
        rank: int = 0,
        shares: int = 1,
    ):
        self.source, self.batch_size, self.flip, self.seed = source, batch_size, flip, seed
        self.names = source.items("train")
        self.rank, self.count = rank, len(self.names) // shares
        self.buffer = _buffer(source, batch_size)  # images
        if not len(self):
            raise ValueError(
                f"{self.count} training images do not fill one batch: use "
                f"batch_size={self.count} or less"
            )
        self.sampler = self  # on which Lightning calls set_epoch
        self.epoch = 0

    @cached_property
    def pieces(self) -> list[range]:
        """Runs of images of one shard."""

        def piece(i: int) -> tuple[str, int]:
            return self.source.shard(self.names[i]), i // PIECE

        runs = (list(run) for _, run in groupby(range(len(self.names)), piece))
        return [range(run[0], run[-1] + 1) for run in runs]

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        drawn = mixed(self._readable(), self.buffer, f"buffer {self.epoch} {self.rank}", self.seed)
        for _ in range(len(self)):
            indices, stored = zip(*islice(drawn, self.batch_size), strict=True)
            index, images = torch.tensor(indices), to_float(np.stack(stored))  # (B, C, S, S)
            if self.flip:
                images = mirrored(images, index, self.seed, self.epoch)
            yield {"image": images.contiguous(memory_format=torch.channels_last), "index": index}

    def _reading(self) -> Iterator[int]:
        """Which images this process reads, and in which order: so many in a row of all pieces."""
        pieces = permutation(f"pieces {self.epoch}", self.seed, len(self.pieces)).tolist()
        indices = chain.from_iterable(self.pieces[piece] for piece in pieces)
        return islice(indices, self.rank * self.count, (self.rank + 1) * self.count)

    def _readable(self) -> Iterator[tuple[int, np.ndarray]]:
        """Index and uint8 (C, S, S) of `count` images; in place of those that cannot be read the
        first ones come again, for the processes wait for each other at each batch."""
        bad = 0
        for index, image in self._decoded():
            if not isinstance(image, UnreadableImage):
                yield index, image
                continue
            warnings.warn(f"skipped {image}", stacklevel=2)
            bad += 1
            if refusal := too_many_unreadable(bad, self.count, "train"):
                raise OSError(refusal)  # of files: the training ends in one line
        if bad:
            yield from islice(self._readable(), bad)

    def _decoded(self) -> Iterator[tuple[int, np.ndarray | UnreadableImage]]:
        """What is read, and decoded while the chunk before it is trained on."""
        indices = self._reading()
        with ThreadPoolExecutor(1) as ahead:

            def begin() -> tuple[list[int], Future]:
                chunk = list(islice(indices, CHUNK))
                return chunk, ahead.submit(self.source.decode, [self.names[i] for i in chunk])

            chunk, decoding = begin()
            while chunk:
                following = begin()
                yield from zip(chunk, decoding.result(), strict=True)
                chunk, decoding = following


def mixed(items: Iterator[Item], size: int, stream: str, seed: int) -> Iterator[Item]:
    """Each of the items once, drawn from a buffer of `size` of them as (stream, seed) says.

    None comes more than `size` places before its own.
    """
    held: list[Item] = []
    draws = chain.from_iterable(
        uniform(stream, seed, torch.arange(start, start + CHUNK), 1).flatten().tolist()
        for start in count(0, CHUNK)
    )
    for item in items:
        if len(held) < size:
            held.append(item)
            continue
        place = int(next(draws) * size)
        yield held[place]
        held[place] = item
    while held:
        place = int(next(draws) * len(held))
        held[place], held[-1] = held[-1], held[place]
        yield held.pop()


def is_over_limit(source: Source, split: str) -> bool:
    """Whether a split is larger, decoded, than the `cache_limit` of its source; few have one."""
    limit = limit_of(source)
    return limit is not None and len(source.items(split)) * _bytes(source) > limit * 1e9


def limit_of(source: Source) -> float | None:
    return source.cache_limit if isinstance(source, Parts) else None


def check_limit(source: Source, split: str) -> None:
    """Raise ValueError for a split that is over the limit where a memory map is needed."""
    if is_over_limit(source, split):
        images = len(source.items(split))
        raise ValueError(
            f"data.cache_limit={limit_of(source)}: the {images} images of the {split} split "
            f"are {images * _bytes(source) / 1e9:.3g} GB decoded, and none but those that are "
            "trained on are read without a memory map: use a larger limit or a smaller part"
        )


def _bytes(source: Source) -> int:
    """Of a decoded image."""
    return source.channels * source.image_size**2


def _buffer(source: Parts, batch_size: int) -> int:
    """How many images the buffer holds: not more than a memory map would have been allowed."""
    limit = round((source.cache_limit or 0) * 1e9)
    if batch_size * _bytes(source) > limit:
        raise ValueError(
            f"data.cache_limit={source.cache_limit}: not one batch of {batch_size} images, which "
            f"is {batch_size * _bytes(source) / 1e9:.3g} GB: use more, or a smaller batch_size="
        )
    return max(batch_size, min(limit, BUFFER) // _bytes(source))

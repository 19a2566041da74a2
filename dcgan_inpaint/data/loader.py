"""LightningDataModule of all sources, with batches from a memory map or a stream."""

from functools import cached_property
from typing import TypeGuard

from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader

from dcgan_inpaint.configs import Count, Seed, Text, checked
from dcgan_inpaint.data.batches import (
    EpochSampler,
    ImageDataset,
    MixtureDataset,
    MixtureSampler,
    check_fills_batch,
    make_dataloader,
)
from dcgan_inpaint.data.cache import Source, image_bytes, load_split, select_items, valid_mask
from dcgan_inpaint.data.decoding import PartitionedSource
from dcgan_inpaint.data.mixture import Mixture
from dcgan_inpaint.data.streaming import StreamedBatches
from dcgan_inpaint.errors import format_count


class ImageDataModule(LightningDataModule):
    """Training batches and splits of a source.

    The splits of a `Mixture` are those of its first source.

    Args:
        source: Where the images come from.
        cache_dir: Directory of the memory maps.
        batch_size: Images per batch; the last partial batch of an epoch is dropped.
        flip: Whether to mirror each training image in half of the epochs.
        seed: Seed of the order and of the flips.
        limit: Images of each split that are decoded and used, but at least a batch of each process;
            None for all.
    """

    @checked
    def __init__(
        self,
        source: Source,
        cache_dir: Text,
        batch_size: Count = 64,
        flip: bool = True,
        seed: Seed = 0,
        limit: Count | None = None,
    ):
        super().__init__()
        self.mixture = source if isinstance(source, Mixture) else None
        self.source = source.first if isinstance(source, Mixture) else source
        self.cache_dir = cache_dir
        self.batch_size, self.flip, self.seed = batch_size, flip, seed
        self._limit = limit

    def split(self, name: str, flip: bool = False, least: int = 1) -> ImageDataset:
        """Return the images of "train", "val" or "test", decoded on first use.

        Raises ValueError if the split has fewer than `least` images or exceeds the source's
        cache_limit, and the errors of `load_split`.
        """
        if exceeds_cache_limit(self.source, name, self.limit):
            size = len(select_items(self.source, name, self.limit))
            gigabytes = size * image_bytes(self.source) / 1e9
            raise ValueError(
                f"data.cache_limit={self.source.cache_limit}: the {name} split of "
                f"{format_count(size, 'image')} is {gigabytes:.3g} GB decoded, and only training "
                "images can be streamed. Use a larger limit or a smaller split"
            )
        images, names = load_split(self.source, name, self.cache_dir, self.limit)
        if len(images) < least:
            raise ValueError(
                f"the {name} split has {format_count(len(images), 'image')}, and at least {least} "
                "are needed"
            )
        return ImageDataset(images, names, flip, self.seed, valid_mask(self.source))

    def prepare_data(self) -> None:
        """Decode the training split, unless it is streamed.

        Raises ValueError if it does not fill one batch, and for a mixture that cannot be drawn.
        """
        if self.mixture is not None:
            self._mixed_batches()
        elif exceeds_cache_limit(self.source, "train", self.limit):
            self._streamed_batches()
        else:
            check_fills_batch(len(self.split("train")) // self._place[1], self.batch_size)

    def train_dataloader(self) -> DataLoader | StreamedBatches:
        if self.mixture is not None:
            return self._mixed_batches()
        if exceeds_cache_limit(self.source, "train", self.limit):
            return self._streamed_batches()
        images = self.split("train", flip=self.flip)
        sampler = EpochSampler(images, self.seed, *self._place)
        return make_dataloader(images, self.batch_size, sampler=sampler, drop_last=True)

    def _streamed_batches(self) -> StreamedBatches:
        assert isinstance(self.source, PartitionedSource)  # others have no limit
        return StreamedBatches(
            self.source, self.batch_size, self.flip, self.seed, *self._place, self.limit
        )

    @cached_property
    def _mixed_images(self) -> tuple[MixtureDataset, list[tuple[Tensor, float]]]:
        """Training images of the mixture, and their groups; the skin tones are measured once."""
        assert self.mixture is not None
        parts = {}
        for name, source in self.mixture.sources.items():
            if exceeds_cache_limit(source, "train", self.limit):
                raise ValueError(
                    f"data.sources.{name}.cache_limit={source.cache_limit}: its training images "
                    "are larger, and a mixture cannot be streamed. Use a larger limit or null"
                )
            images, names = load_split(source, "train", self.cache_dir, self.limit)
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
    def limit(self) -> int | None:
        """Return the number of images of each split, or None for all."""
        return self._limit and max(self._limit, self.batch_size * self._place[1])

    @property
    def _place(self) -> tuple[int, int]:
        """Return the rank of this process and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


def exceeds_cache_limit(
    source: Source, split: str, limit: int | None = None
) -> TypeGuard[PartitionedSource]:
    """Return whether a decoded split, or `limit` images of it, exceed its source's cache_limit."""
    gigabytes = source.cache_limit if isinstance(source, PartitionedSource) else None
    if gigabytes is None:
        return False
    return len(select_items(source, split, limit)) * image_bytes(source) > gigabytes * 1e9

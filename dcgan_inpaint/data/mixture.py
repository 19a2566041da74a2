"""A mixture of sources, of which every training batch holds fixed shares."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dcgan_inpaint.configs import NonNegative, Share, checked
from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.data.decoding import Channels, ImageSize
from dcgan_inpaint.data.skin_tone import DARK_ITA, skin_tone
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.randomness import permutation, uniform


class Mixture:
    """Several sources, mixed in every training batch.

    The first source defines the evaluation: the validation and test images are its own, and a
    checkpoint describes it alone.  So a mixture is the first source wherever a `Source` is used,
    except for training batches.

    Args:
        sources: Sources by name, of the same image_size and channels.  Those after the first may
            have a `valid_box`.
        weights: Share of each source in a batch, by name, relative to the sum of the weights.
            A source with the weight 0 is left out.
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        dark_share: Share of dark skin (skin_tone.py) in the images drawn from a source, by name;
            None, or no share, for the share that the source has.

    Raises:
        ValueError: If the sources do not fit together, or if `dark_share` is set and
            their images are gray.
    """

    @checked
    def __init__(
        self,
        sources: Annotated[Mapping[str, Source], Field(min_length=1)],
        weights: Mapping[str, NonNegative],
        image_size: ImageSize = 128,
        channels: Channels = 3,
        dark_share: Mapping[str, Share | None] | None = None,
    ):
        self.image_size, self.channels = image_size, channels
        self.dark_share = {k: share for k, share in (dark_share or {}).items() if share is not None}
        for name, source in sources.items():
            for option in ("image_size", "channels"):
                value, expected = getattr(source, option), getattr(self, option)
                if value != expected:
                    raise ValueError(
                        f"data.sources.{name}.{option}={value}: the mixture has "
                        f"data.{option}={expected}. Use the same for all sources"
                    )
        if sources.keys() != weights.keys() or not any(weights.values()):
            raise ValueError(
                f"data.weights={dict(weights)}: expected one weight for each of "
                f"{', '.join(sources)}, and not only 0"
            )
        for name, share in self.dark_share.items():
            if name not in sources or channels != 3:
                raise ValueError(
                    f"data.dark_share.{name}={share}: skin tones are those of a color image from "
                    f"one of {', '.join(sources)}. Use data.dark_share.{name}=null"
                )
        first = next(iter(sources))
        self.first = sources[first]
        if getattr(self.first, "valid_box", None):
            raise ValueError(
                f"data.sources.{first}: its images are known in part only, but the first source is "
                "used for validation. Put another source first"
            )
        self.sources = {name: source for name, source in sources.items() if weights[name]}
        total = sum(weights.values())
        self.weights = {name: weights[name] / total for name in self.sources}

    @property
    def crop(self) -> float:
        return self.first.crop

    def settings(self) -> dict:
        return self.first.settings()

    def items(self, split: str) -> list[str]:
        return self.first.items(split)

    def decode(self, items: list[str]) -> list:
        return self.first.decode(items)

    def groups(self, images: Mapping[str, np.ndarray]) -> list[tuple[Tensor, float]]:
        """Return groups of training images, and the share of each in a batch.

        The groups of a source are adjacent, and so are those of dark skin from two sources in a
        row: `mixed_order` meets the shares of adjacent groups together.

        Args:
            images: uint8 (N, C, S, S) by source.

        Returns:
            Pairs of indices (N,) int64, counted through all sources in order, and a share.

        Raises:
            ValueError: If a source cannot have its `dark_share`.
        """
        groups, start = [], 0
        for i, (name, source) in enumerate(self.sources.items()):
            index = torch.arange(start, start := start + len(images[name]))
            weight, share = self.weights[name], self.dark_share.get(name)
            if share is None:
                groups.append((index, weight))
                continue
            dark = torch.from_numpy(skin_tone(images[name], source.crop) < DARK_ITA)
            if dark.all() or not dark.any():
                raise ValueError(
                    f"data.dark_share.{name}={share}: dark skin in {int(dark.sum())} of its "
                    f"{format_count(len(dark), 'image')}. Use data.dark_share.{name}=null"
                )
            pair = [(index[dark], weight * share), (index[~dark], weight * (1 - share))]
            groups += pair if i % 2 else pair[::-1]
        return groups


def mixed_order(
    groups: Sequence[tuple[Tensor, float]], batches: int, batch_size: int, seed: int, epoch: int
) -> Tensor:
    """Return the indices of the images in each batch of an epoch, (batches, batch_size) int64.

    Systematic sampling (Madow 1944) chooses the groups: the positions (k + u) / batch_size, with
    one random u per batch, on the cumulative shares.  So each batch has the share of every group,
    and of adjacent groups together, to within one image.  Within a group the images follow a random
    permutation, and the next one after that: an epoch repeats them equally often.

    Args:
        groups: Pairs of indices (N,) int64 and a share; the shares have the sum 1.
        batches: Number of batches.
        batch_size: Images per batch.
        seed: The seed.
        epoch: The epoch; (seed, epoch) determine the result.
    """
    u = uniform(f"mixture {epoch}", seed, torch.arange(batches), 1).double()  # (batches, 1)
    positions = (torch.arange(batch_size) + u) / batch_size  # (batches, batch_size)
    ends = torch.tensor([share for _, share in groups], dtype=torch.float64).cumsum(0)
    group = torch.bucketize(positions, ends[:-1], right=True)  # (batches, batch_size)
    order = torch.empty_like(group)
    for g, (index, _) in enumerate(groups):
        chosen = group == g
        count = int(chosen.sum())
        rounds = [
            permutation(f"mixture {epoch} {g} {i}", seed, len(index))
            for i in range(1 + count // len(index))
        ]
        order[chosen] = index[torch.cat(rounds)[:count]]
    return order

"""A mixture of sources, of which every training batch holds fixed shares."""

from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from dcgan_inpaint.configs import Positive, Share, checked
from dcgan_inpaint.data.cache import Source
from dcgan_inpaint.data.decoding import Channels, ImageSize
from dcgan_inpaint.data.skin_tone import DARK_ITA, skin_tone
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
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        dark_share: Share of each batch whose skin is dark (skin_tone.py); None for the share that
            follows from the weights.

    Raises:
        ValueError: If the sources do not fit together, or if their images have no color to tell
            the skin tone.
    """

    @checked
    def __init__(
        self,
        sources: Annotated[Mapping[str, Source], Field(min_length=1)],
        weights: Mapping[str, Positive],
        image_size: ImageSize = 128,
        channels: Channels = 3,
        dark_share: Share | None = None,
    ):
        self.sources = dict(sources)
        self.image_size, self.channels, self.dark_share = image_size, channels, dark_share
        for name, source in self.sources.items():
            for option in ("image_size", "channels"):
                value, expected = getattr(source, option), getattr(self, option)
                if value != expected:
                    raise ValueError(
                        f"data.sources.{name}.{option}={value}: the mixture has "
                        f"data.{option}={expected}. Use the same for all sources"
                    )
        if self.sources.keys() != weights.keys():
            raise ValueError(
                f"data.weights: has {', '.join(weights)}, but the sources are "
                f"{', '.join(self.sources)}. Give one weight for each source"
            )
        total = sum(weights.values())
        self.weights = {name: weights[name] / total for name in self.sources}
        first = next(iter(self.sources))
        self.first = self.sources[first]
        if getattr(self.first, "valid_box", None):
            raise ValueError(
                f"data.sources.{first}: its images are known in part only, but the first source is "
                "used for validation. Put another source first"
            )
        if dark_share is not None and channels != 3:
            raise ValueError(
                f"data.dark_share={dark_share}: gray images do not show the skin tone. Use "
                "data.dark_share=null or data.channels=3"
            )

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

        Groups that share a source are adjacent, and so are two groups of dark skin, so that
        `mixed_order` meets the shares of both.

        Args:
            images: uint8 (N, C, S, S) by source.

        Returns:
            Pairs of indices (N,) int64, counted through all sources in order, and a share.

        Raises:
            ValueError: If the mixture cannot reach `dark_share`.
        """
        starts = np.cumsum([0] + [len(images[name]) for name in self.sources])
        indices = [torch.arange(*ends) for ends in zip(starts[:-1], starts[1:], strict=True)]
        weights = np.array(list(self.weights.values()))
        if self.dark_share is None:
            return list(zip(indices, weights.tolist(), strict=True))
        dark = [
            torch.from_numpy(skin_tone(images[name], source.crop) < DARK_ITA)
            for name, source in self.sources.items()
        ]
        natural = np.array([float(rows.double().mean()) for rows in dark])
        shares = dark_shares(weights, natural, self.dark_share)
        groups = []
        for i, (index, rows) in enumerate(zip(indices, dark, strict=True)):
            pair = [
                (index[rows], float(weights[i] * shares[i])),
                (index[~rows], float(weights[i] * (1 - shares[i]))),
            ]
            groups += pair if i % 2 else pair[::-1]
        return [group for group in groups if len(group[0])]


def dark_shares(weights: np.ndarray, natural: np.ndarray, target: float) -> np.ndarray:
    """Return the share of dark skin in the images drawn from each source.

    One factor for the odds of dark skin in all sources reaches the target, so that images are
    repeated as evenly as possible.

    Args:
        weights: (sources,) with sum 1.
        natural: (sources,), share of dark skin in each source.
        target: Share of dark skin in all images drawn.

    Raises:
        ValueError: If no factor reaches the target.
    """
    lowest, highest = weights[natural == 1].sum(), weights[natural > 0].sum()
    if not lowest < target < highest:
        raise ValueError(
            f"data.dark_share={target}: with these sources and data.weights it is above "
            f"{lowest:.2f} and below {highest:.2f}. Use such a share, or null"
        )
    low, high = -50.0, 50.0  # log of the factor
    for _ in range(60):  # bisection, to 1e-16
        middle = (low + high) / 2
        scaled = np.exp(middle) * natural
        shares = scaled / (scaled + 1 - natural)
        low, high = (middle, high) if weights @ shares < target else (low, middle)
    return shares


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

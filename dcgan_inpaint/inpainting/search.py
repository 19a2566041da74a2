"""Search for the latents of a batch, K candidates per image at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dcgan_inpaint.configs import CandidateCount, Natural, NonNegative, Seed, checked, settings
from dcgan_inpaint.inpainting.solvers import Losses, Solver
from dcgan_inpaint.models.networks import Encoding, Generator
from dcgan_inpaint.randomness import CounterRNG, normal


@settings
class SearchSettings:
    """Settings of a search.

    Attributes:
        candidates: Number of searches per image.
        select: How the completion is made from the candidates: "best" takes the candidate with the
            lowest objective, "mean" blends their mean image, which has a lower squared error, and
            "sample" takes the first candidate.
        seed: Seed of the initial latents; those of image i depend on (seed, i) only.
        out_interval: Number of iterations between two stored frames; 0 stores none.
    """

    candidates: CandidateCount = 1
    select: Literal["best", "mean", "sample"] = "best"
    seed: Seed = 0
    out_interval: Natural = 0


class Stage:
    """Search in a feature map of G, which can represent more images than z (Daras 2021; Gu 2020).

    Args:
        level: 1 for the 4x4 map, 2 for the 8x8 map, and so on; see `Generator.lift`.
        solver: Solver for the feature map, with bound="none".
        leash: Weight of the L1 distance, a sum, to the initial feature map.

    Raises:
        ValueError: If the solver has a bound, or another argument is out of range.
    """

    @checked
    def __init__(
        self, level: Annotated[int, Field(ge=1, le=7)], solver: Solver, leash: NonNegative = 0.0
    ):
        if solver.bound != "none":
            raise ValueError(f"bound={solver.bound}: a feature map has no bound. Use bound=none")
        self.level, self.solver, self.leash = level, solver, leash


class Candidates:
    """Layout of a batch with K candidates per image: row b·K + k is candidate k of image b.

    Args:
        index: Position of each image in the data set, (B,).
        count: Number of candidates per image, K.

    Attributes:
        k: Number of the candidate in each row, (B·K,).
        rows: Index i + k·2^32 of candidate k of image i for random numbers, (B·K,).  Candidate 0
            has the index of the image, so it is the same search as with a single candidate.
    """

    def __init__(self, index: Tensor, count: int):
        self.batch_size, self.count = len(index), count
        self.k = torch.arange(count, device=index.device).repeat(len(index))  # (B·K,)
        self.rows = index.repeat_interleave(count) + (self.k << 32)  # (B·K,)

    def repeat(self, values: Tensor) -> Tensor:
        """Repeat the values of each image for its candidates: (B, ...) -> (B·K, ...)."""
        return values.repeat_interleave(self.count, 0)

    def best_first(self, totals: Tensor) -> Tensor:
        """Return the rows (B, K) of each image, sorted by their total loss (B·K,)."""
        first = self.count * torch.arange(self.batch_size, device=totals.device)  # (B,)
        return totals.view(-1, self.count).argsort(1) + first[:, None]


@dataclass
class Start:
    """Initial state of a search, and its rows whose image from G is mirrored.

    The z of `encoding` is optimized; its offset and skips stay as they are.
    """

    encoding: Encoding  # of B·K rows
    mirrored: Tensor | None = None  # (B·K,)


def mirror_rows(images: Tensor, mirrored: Tensor | None) -> Tensor:
    """Flip the `mirrored` rows (B·K,) of images (B·K, C, S, S) left to right."""
    if mirrored is None:
        return images
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


@torch.no_grad()
def initialize(
    encoder: Any,
    latents: Callable[..., Tensor],
    candidates: Candidates,
    known: Tensor,
    mask: Tensor,
    seed: int,
) -> Start:
    """Return the initial latents of a search.

    An encoder that samples initializes every candidate with an independent sample; the first is
    without noise if the encoder is trained without.  A deterministic
    encoder initializes candidate 0 from the image and candidate 1 from its mirror image.  All other
    candidates start from random latents.

    Args:
        encoder: Latent encoder, or None.
        latents: Function (index, seed) that returns random latents (B·K, z_dim).
        candidates: Layout of the rows.
        known: Masked images, (B, C, S, S).
        mask: Masks, (B, 1, S, S).
        seed: Seed of the random numbers.
    """
    if encoder is not None and encoder.noise_dim:
        noise = normal("w", seed, candidates.rows, encoder.noise_dim)  # (B·K, noise_dim)
        if encoder.first_without_noise:
            noise = noise * (candidates.k > 0)[:, None]
        return Start(_as_float(encoder.encode(known, mask, noise)))
    z = latents(candidates.rows, seed=seed)  # (B·K, z_dim)
    if encoder is None:
        return Start(Encoding(z))
    mirrored = candidates.k == 1 if candidates.count > 1 else None
    encoded = candidates.k < 2
    known, mask = (mirror_rows(candidates.repeat(x), mirrored)[encoded] for x in (known, mask))
    encoding = _as_float(encoder.encode(known, mask))
    z[encoded] = encoding.z
    if bool(encoded.all()):
        return Start(encoding, mirrored)
    assert encoding.offset is not None
    offset = encoding.offset.new_zeros(len(z), encoding.offset.shape[1])
    offset[encoded] = encoding.offset
    return Start(Encoding(z, offset), mirrored)


def _as_float(encoding: Encoding) -> Encoding:
    """Convert to float32, which the solvers need even if the networks use bf16."""
    z, offset, skips = encoding
    skips = None if skips is None else [skip.float() for skip in skips]
    return Encoding(z.float(), None if offset is None else offset.float(), skips)


class Search:
    """Search for z and then for the feature map of each stage.

    Args:
        generator: Frozen generator.
        losses: Function of images (B·K, C, S, S) that returns their context, prior and total loss,
            (B·K,) each.
        start: Initial latents.

    Attributes:
        fake: Images (B·K, C, S, S) of the last evaluation.
        z: Latents (B·K, z_dim) of the last evaluation; in a stage, the final latents.
    """

    def __init__(self, generator: Generator, losses: Callable[[Tensor], Losses], start: Start):
        self.generator, self.losses, self.start = generator, losses, start
        self.z = start.encoding.z

    def evaluate(self, x: Tensor, level: int = 0) -> Losses:
        """Return the losses of latents x (level 0) or of feature maps x (B·K, H·W·C)."""
        if level == 0:
            self.z = x.detach().clone()  # solvers change z in place
        _, offset, skips = self.start.encoding
        images = self.generator(x, level, offset, skips).float()  # (B·K, C, S, S)
        self.fake = mirror_rows(images, self.start.mirrored)
        return self.losses(self.fake)

    def run(
        self, z: nn.Parameter, solver: Solver, stages: Sequence[Stage], rng: CounterRNG
    ) -> Iterator[Losses]:
        """Run the search; yield the losses of each evaluation and of the final state."""
        if solver.iterations:
            yield from solver(z, self.evaluate, rng)
        x, level = z, 0
        self.z = z.data.clone()
        for stage in stages:
            _, offset, skips = self.start.encoding
            start = self.generator.lift(x.detach(), level, stage.level, offset, skips)
            x, level = nn.Parameter(start.float().clone()), stage.level  # (B·K, H·W·C)
            yield from stage.solver(x, partial(self._evaluate_stage, stage, start), rng)
        with torch.no_grad():
            yield self.evaluate(x, level)

    def _evaluate_stage(self, stage: Stage, start: Tensor, x: Tensor) -> Losses:
        """Return the losses of feature maps x, whose total includes the distance to `start`."""
        context, prior, total = self.evaluate(x, stage.level)
        if stage.leash > 0:
            total = total + stage.leash * (x - start).abs().sum(1)
        return context, prior, total

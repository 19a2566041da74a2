"""One batch under search: K candidates of each of B images, as B·K rows that move at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dcgan_inpaint.configs import CandidateCount, Natural, NonNegative, Seed, checked, settings
from dcgan_inpaint.inpainting.solvers import Losses, Solver
from dcgan_inpaint.models.networks import Generator
from dcgan_inpaint.randomness import Draws, normal


@settings
class SearchSettings:
    """How often each image is searched, and what is kept.

    candidates: searches per image.  select: of the candidates "best", the one with the lowest
    objective, "mean", the mean image, blended, the better guess in squared error, or "sample",
    the first, whatever the objective says of it.  seed: the
    starts of image i follow from (seed, i) alone.  out_interval: a frame of the answer is kept
    every so many iterations; 0: none.
    """

    candidates: CandidateCount = 1
    select: Literal["best", "mean", "sample"] = "best"
    seed: Seed = 0
    out_interval: Natural = 0


class Stage:
    """The search continues in a feature map of G, where there is more than any z can give.

    `level` 1 is the 4x4 map, 2 the 8x8 one, and so on (networks.Generator.lift; Daras 2021, Gu
    2020).  `leash` weighs the l1 distance, summed, to the map that the stage started from.  Raises
    ValueError for a solver that keeps within [-1, 1], where only z has to be.
    """

    @checked
    def __init__(
        self, level: Annotated[int, Field(ge=1, le=7)], solver: Solver, leash: NonNegative = 0.0
    ):
        if solver.bound != "none":
            raise ValueError(f"bound={solver.bound} of a stage: a feature map needs none")
        self.level, self.solver, self.leash = level, solver, leash


def check_stages(stages: Sequence[Stage], levels: int) -> None:
    """Raise ValueError unless each stage has a level of its own, in order, up to `levels`."""
    used = [stage.level for stage in stages]
    if used != sorted(set(used)) or max(used, default=0) > levels:
        raise ValueError(
            f"stages of levels {used}: use each once, in order, up to {levels} with this checkpoint"
        )


class Candidates:
    """Which row is what: row b·K + k is candidate k of the batch's image b.

    `rows` names them, to draw their numbers by.  Candidate 0 of image i is row i, so that one
    search of several is the one that would be made alone; others are beyond any number of images.
    """

    def __init__(self, index: Tensor, count: int):
        self.images, self.count = len(index), count
        self.k = torch.arange(count, device=index.device).repeat(len(index))  # (B·K,)
        self.rows = index.repeat_interleave(count) + (self.k << 32)  # (B·K,)

    def of(self, images: Tensor) -> Tensor:
        """What belongs to each image, (B, ...), for each of its candidates: (B·K, ...)."""
        return images.repeat_interleave(self.count, 0)

    def best_first(self, totals: Tensor) -> Tensor:
        """The rows (B, K) of each image by their objective (B·K,), the lowest first."""
        first = self.count * torch.arange(self.images, device=totals.device)  # (B,)
        return totals.view(-1, self.count).argsort(1) + first[:, None]


@dataclass
class Start:
    """Where the rows start: z (B·K, z_dim) and, of an encoder's rows, the offset of G's 4x4 map.

    `mirrored` (B·K,) rows stand for the mirror image: their image is G's, mirrored back.
    """

    z: Tensor
    offset: Tensor | None = None  # (B·K, 4·4·8·gf)
    mirrored: Tensor | None = None


def turned(images: Tensor, mirrored: Tensor | None) -> Tensor:
    """Images (B·K, ., S, S), those of the `mirrored` rows flipped left to right."""
    if mirrored is None:
        return images
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)


def sampled_start(
    encoder: Any, candidates: Candidates, known: Tensor, mask: Tensor, seed: int
) -> Start:
    """The start of each row from a draw of its own of an encoder that samples.

    known (B, C, S, S), 0 in the hole; mask (B, 1, S, S).
    """
    noise = normal("w", seed, candidates.rows, encoder.noise_dim)
    z, offset = encoder(known, mask, noise)
    return Start(z.float(), offset.float())


def encoded_start(
    encoder: nn.Module, z: Tensor, candidates: Candidates, known: Tensor, mask: Tensor
) -> Start:
    """The encoder's start for candidate 0 and, from the mirror image (as likely a face), for 1.

    Other candidates keep their z (B·K, z_dim).  known (B·K, C, S, S), 0 in the hole; mask (B·K, 1,
    S, S).
    """
    mirrored = candidates.k == 1 if candidates.count > 1 else None
    encoded = candidates.k < 2
    found, offsets = encoder(turned(known, mirrored)[encoded], turned(mask, mirrored)[encoded])
    z[encoded] = found.float()  # the search moves float32 also under bf16
    offset = offsets.new_zeros(len(z), offsets.shape[1])
    offset[encoded] = offsets
    return Start(z, offset, mirrored)


class Search:
    """Moves the rows from their start: z first, then the feature map of each stage.

    `losses(fake)` gives context, prior, total, each (B·K,), of images (B·K, C, S, S).  After each
    evaluation `fake` holds its images and `z` (B·K, z_dim) the latents it was of, or that the
    stages began with.
    """

    def __init__(self, generator: Generator, losses: Callable[[Tensor], Losses], start: Start):
        self.generator, self.losses, self.start = generator, losses, start
        self.z = start.z

    def evaluate(self, x: Tensor, level: int = 0) -> Losses:
        """The losses of z or, at a later level, of feature maps x (B·K, ...)."""
        if level == 0:
            self.z = x.detach().clone()  # solvers move z in place
        images = self.generator(x, level, self.start.offset).float()  # (B·K, C, S, S)
        self.fake = turned(images, self.start.mirrored)
        return self.losses(self.fake)

    def leashed(self, stage: Stage, start: Tensor) -> Callable[[Tensor], Losses]:
        """`evaluate` in a stage; the total has the distance to the map that it started from."""

        def evaluate(x: Tensor) -> Losses:
            context, prior, total = self.evaluate(x, stage.level)
            if stage.leash > 0:
                total = total + stage.leash * (x - start).abs().sum(1)
            return context, prior, total

        return evaluate

    def run(
        self, z: nn.Parameter, solver: Solver, stages: Sequence[Stage], draws: Draws
    ) -> Iterator[Losses]:
        """The losses of each evaluation, in z and then in each stage, and of the end."""
        if solver.iterations:
            yield from solver(z, self.evaluate, draws)
        x, level = z, 0
        self.z = z.data.clone()
        for stage in stages:
            start = self.generator.lift(x.detach(), level, stage.level, self.start.offset)
            x, level = nn.Parameter(start.float().clone()), stage.level  # (B·K, H·W·C)
            yield from stage.solver(x, self.leashed(stage, start), draws)
        with torch.no_grad():
            yield self.evaluate(x, level)


@dataclass
class Frames:
    """What is kept of a search as it goes: of every `every`-th evaluation and of the last."""

    every: int
    last: int
    iterations: list[int] = field(default_factory=list)
    fakes: list[Tensor] = field(default_factory=list)  # (B·K, C, S, S) each
    z: list[Tensor] = field(default_factory=list)  # (B·K, z_dim) each

    def see(self, t: int, search: Search) -> None:
        if t == self.last or (self.every and t % self.every == 0):
            self.iterations.append(t)
            self.fakes.append(search.fake.detach())
            self.z.append(search.z)

"""Completion: search the z whose G(z) agrees with the known pixels and looks real to D.

z_hat = argmin context(z) + lam·prior(z), then the known pixels are put back (Amos 2016; Yeh 2017).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from dcgan_inpaint.completion.objective import Objective
from dcgan_inpaint.completion.result import SearchedCompletion
from dcgan_inpaint.completion.solvers import Losses, Solver
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.models.networks import frozen
from dcgan_inpaint.observation.measurements import Measurement
from dcgan_inpaint.pictures import masked
from dcgan_inpaint.randomness import Draws


@dataclass(frozen=True)
class Stage:
    """The search goes on in a feature map of G, where there is more than any z can give.

    `level` 1 is the 4x4 map, 2 the 8x8 one, and so on (networks.Generator.lift; Daras 2021, Gu
    2020).  `leash` weighs the l1 distance, summed, to the map that the stage started from.  Raises
    ValueError for level < 1, leash < 0 or a solver that keeps within [-1, 1], where only z has to
    be.
    """

    level: int
    solver: Solver
    leash: float = 0.0

    def __post_init__(self) -> None:
        if self.level < 1:
            raise ValueError(f"level={self.level} of a stage: use 1 (the map after z) or more")
        if self.leash < 0:
            raise ValueError(f"leash={self.leash} of a stage: use 0 (free) or more")
        if self.solver.bound != "none":
            raise ValueError(f"bound={self.solver.bound} of a stage: a feature map needs none")


class InpaintingModule(LightningModule):
    """A frozen GAN and, during a batch, the learnable z (B·K, z_dim) of its pictures.

    `mask(index, size)` draws the masks (masks.py), `solver` moves z (solvers.py), `blend` joins
    G(z) and the known pixels (blending.py).  With `measure` the context compares measurements of
    G(z) and y instead of pixels (measurements.py).  `ema=False` searches the raw generator instead
    of its average.  `candidates` starts are searched per picture.  With an `encoder(known, mask)`
    (latent_encoder.py) the first candidate starts from its z instead, and its offset is added to
    G's 4x4 map; the second from those for the mirrored picture, as likely a face, and is G's
    picture mirrored.  After z the search continues in the feature maps of the `stages`, in their
    order.  Of the candidates `answer` is "best", the one with the lowest objective, or "mean": the
    mean picture, blended, the better guess in squared error.  A
    frame of it is kept every `out_interval` iterations (0: none).

    The start of picture i follows from (seed, i) alone, and pictures do not share a loss, so
    neither batch size nor batch neighbours change a result.
    """

    def __init__(
        self,
        gan: LatentGAN,
        mask: Callable[[Tensor, int], Tensor],
        objective: Objective,
        solver: Solver,
        blend: Callable[[Tensor, Tensor, Tensor], Tensor],
        measure: Measurement | None = None,
        ema: bool = True,
        candidates: int = 1,
        encoder: nn.Module | None = None,
        stages: Sequence[Stage] = (),
        answer: str = "best",
        seed: int = 0,
        out_interval: int = 0,
        progress: bool = True,
    ):
        super().__init__()
        if candidates < 1:
            raise ValueError(f"candidates={candidates}: use 1 or more")
        if out_interval < 0:
            raise ValueError(f"out_interval={out_interval}: use 0 (no frames) or more")
        if answer not in ("best", "mean"):
            raise ValueError(f"answer={answer!r}: choose best or mean")
        if encoder is not None and measure is not None:
            raise ValueError("start= needs known pixels: this mask has none")
        if gan.hparams["prior"] == "normal" and solver.bound != "none":
            raise ValueError(
                f"solver.bound={solver.bound}: the checkpoint's z is normal, not in [-1, 1]: "
                "use solver.bound=none"
            )
        self.generator = frozen(gan.ema_generator if ema else gan.generator)
        self.discriminator = frozen(gan.discriminator)
        self.latents = gan.latents
        self.picture_shape = gan.picture_shape
        self.mask, self.measure, self.objective = mask, measure, objective
        self.solver, self.blend, self.seed = solver, blend, seed
        self.candidates = candidates
        self.encoder, self.stages = encoder, stages
        self.answer = answer
        self.out_interval, self.progress = out_interval, progress
        levels = [stage.level for stage in stages]
        if levels != sorted(set(levels)) or max(levels, default=0) > self.generator.levels:
            raise ValueError(
                f"stages of levels {levels}: use each once, in order, up to "
                f"{self.generator.levels} with this checkpoint"
            )

    @property
    def iterations(self) -> int:
        """Evaluations of G in all."""
        return self.solver.iterations + sum(stage.solver.iterations for stage in self.stages)

    @torch.no_grad()
    def check(self) -> None:
        """Raise ValueError if mask or measure do not fit the pictures, before any long work."""
        self._known(torch.zeros(1, *self.picture_shape), torch.arange(1))

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> SearchedCompletion:
        """Complete one batch {"image": (B, C, S, S) in [-1, 1], "index": (B,)}."""
        # Lightning predicts without gradients; z needs its own
        with torch.inference_mode(False), torch.enable_grad():
            return self._complete(batch["image"].clone(), batch["index"].clone())

    def _known(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Masks (B, 1, S, S), and the target of the context loss with its weights."""
        mask = self.mask(index, images.shape[-1])  # (B, 1, S, S)
        if self.measure is None:
            return mask, images, self.objective.weights(mask)
        target = self.measure.observe(images, index)
        self.measure.predict(images)  # does it fit
        return mask, target, torch.ones_like(target[:, :1])

    def losses(self, fake: Tensor, target: Tensor, weights: Tensor) -> Losses:
        """context, prior, total, each (B,), of candidate pictures fake (B, C, S, S)."""
        measured = fake if self.measure is None else self.measure.predict(fake)
        context = self.objective.context(measured, target, weights)
        prior = self.objective.prior(self.discriminator(fake).float())
        return context, prior, context + self.objective.lam * prior

    def _complete(self, images: Tensor, index: Tensor) -> SearchedCompletion:
        mask, target, weights = self._known(images, index)
        # candidate k of picture i is a row of its own, and candidate 0 is row i
        k = torch.arange(self.candidates, device=index.device).repeat(len(index))  # (B·K,)
        rows = index.repeat_interleave(self.candidates) + (k << 32)  # (B·K,)
        targets, row_weights, row_images, row_mask = (
            t.repeat_interleave(self.candidates, 0) for t in (target, weights, images, mask)
        )
        draws = Draws(self.seed, rows)
        fake, at_z = row_images, torch.empty(0)  # replaced at the first evaluation
        offset = None  # (B·K, 4·4·8·gf), from the encoder
        mirrors = self.encoder is not None and self.candidates > 1

        def turned(pictures: Tensor) -> Tensor:
            """Mirror the second candidate of each picture (B·K, ., S, S), if it is an encoder's."""
            if not mirrors:
                return pictures
            return torch.where((k == 1)[:, None, None, None], pictures.flip(3), pictures)

        def evaluate(
            x: Tensor, level: int = 0, start: Tensor | None = None, leash: float = 0.0
        ) -> Losses:
            nonlocal fake, at_z
            if level == 0:
                at_z = x.detach().clone()  # (B·K, z_dim): solvers move z in place
            fake = turned(self.generator(x, level, offset).float())  # (B·K, C, S, S)
            context, prior, total = self.losses(fake, targets, row_weights)
            if start is not None and leash > 0:
                total = total + leash * (x - start).abs().sum(1)
            return context, prior, total

        def search(x: nn.Parameter) -> Iterator[Losses]:
            """The losses of each evaluation, in z and then in each stage, and of the end."""
            nonlocal at_z
            if self.solver.iterations > 0:
                yield from self.solver(x, evaluate, draws)
            at_z, level = x.data.clone(), 0
            for stage in self.stages:
                start = self.generator.lift(x.detach(), level, stage.level, offset)  # (B·K, H·W·C)
                x, level = nn.Parameter(start.float().clone()), stage.level
                leashed = partial(evaluate, level=level, start=start, leash=stage.leash)
                yield from stage.solver(x, leashed, draws)
            with torch.no_grad():
                yield evaluate(x, level)

        steps, every = self.iterations, self.out_interval
        trace = torch.empty(steps + 1, len(rows), 3, device=index.device)
        fakes, frame_z, frame_iterations = [], [], []
        z = nn.Parameter(self.latents(rows, seed=self.seed))  # (B·K, z_dim)
        if self.encoder is not None:
            encoded = k < 2
            known = turned(masked(row_images, row_mask))
            found, offsets = self.encoder(known[encoded], turned(row_mask)[encoded])
            z.data[encoded] = found.float()  # the search moves float32 also under bf16
            offset = offsets.new_zeros(len(rows), offsets.shape[1])
            offset[encoded] = offsets
        progress = tqdm(
            search(z),
            total=steps + 1,
            desc="searching z",
            unit="iteration",
            leave=False,
            disable=not self.progress,
        )
        for t, losses in enumerate(progress):
            trace[t] = torch.stack(losses, 1)
            if t == steps or (every and t % every == 0):
                fakes.append(fake.detach())
                frame_z.append(at_z)
                frame_iterations.append(t)

        # of each picture's candidates, the best first: (B, K) rows
        totals = trace[steps, :, 2].view(-1, self.candidates)
        order = totals.argsort(1) + self.candidates * torch.arange(len(index)).to(z.device)[:, None]
        best = order[:, 0]

        def answer(fake: Tensor) -> Tensor:  # (B·K, C, S, S) -> (B, C, S, S)
            return fake[best] if self.answer == "best" else fake[order].mean(1)

        frames = [self.blend(answer(fake), images, mask) for fake in fakes]
        candidates = frames[-1][:, None]  # (B, 1, C, S, S)
        if self.candidates > 1:
            candidates = self.blend(fakes[-1], row_images, row_mask)[order]  # (B, K, C, S, S)
        channels, size = images.shape[1], images.shape[-1]
        observed = masked(images, mask)
        if self.measure is not None:
            observed = F.interpolate(target, size=size).expand(-1, channels, -1, -1)
        return SearchedCompletion(
            index=index,
            images=images,
            mask=mask,
            observed=observed,
            fake=answer(fakes[-1]),
            completion=frames[-1],
            z=at_z[best],
            trace=trace[:, best],
            candidates=candidates,
            frames=torch.stack(frames),
            frame_z=torch.stack(frame_z)[:, best],
            frame_iterations=frame_iterations,
        )

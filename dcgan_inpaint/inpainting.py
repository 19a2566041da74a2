"""Completion: search the z whose G(z) agrees with the known pixels and looks real to D.

z_hat = argmin context(z) + lam·prior(z), then the known pixels are put back (Amos 2016; Yeh 2017).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from tqdm import tqdm

from dcgan_inpaint.dcgan import DCGAN
from dcgan_inpaint.networks import frozen
from dcgan_inpaint.objective import Objective, context_loss
from dcgan_inpaint.randomness import Draws
from dcgan_inpaint.solvers import Losses, Solver


@dataclass
class Completion:
    """One completed batch.  Pictures (B, C, S, S) are in [-1, 1]; T iterations, F frames."""

    index: Tensor  # (B,) position of each picture in its list
    images: Tensor  # the true pictures
    mask: Tensor  # (B, 1, S, S), 1 = known
    fake: Tensor  # G(z) at the end of the search
    completion: Tensor  # the blended result
    z: Tensor  # (B, z_dim)
    trace: Tensor  # (T + 1, B, 3) context, prior, total before each update and at the end
    frames: Tensor  # (F, B, C, S, S) the completion as the search went
    frame_iterations: list[int]  # (F,) the iteration of each frame


class InpaintingModule(LightningModule):
    """A frozen DCGAN and, during a batch, the learnable z (B, z_dim) of its pictures.

    `mask(index, size)` draws the masks (masks.py), `solver` moves z (solvers.py), `blend` joins
    G(z) and the known pixels (blending.py).  With `measure`, the context is taken between
    measure(G(z)) and measure(y), and every measured value counts (mask=lowres).  `ema=False`
    searches the raw generator instead of its average.  A frame is kept every `out_interval`
    iterations (0: none).

    The start of picture i follows from (seed, i) alone, and pictures do not share a loss, so
    neither batch size nor batch neighbours change a result.
    """

    def __init__(
        self,
        dcgan: DCGAN,
        mask: Callable[[Tensor, int], Tensor],
        objective: Objective,
        solver: Solver,
        blend: Callable[[Tensor, Tensor, Tensor], Tensor],
        measure: Callable[[Tensor], Tensor] | None = None,
        ema: bool = True,
        seed: int = 0,
        out_interval: int = 0,
        progress: bool = True,
    ):
        super().__init__()
        if out_interval < 0:
            raise ValueError(f"out_interval={out_interval}: use 0 (no frames) or more")
        self.generator = frozen(dcgan.ema_generator if ema else dcgan.generator)
        self.discriminator = frozen(dcgan.discriminator)
        self.start, self.image_size = dcgan.latents, dcgan.hparams["image_size"]
        self.mask, self.measure, self.objective = mask, measure, objective
        self.solver, self.blend, self.seed = solver, blend, seed
        self.out_interval, self.progress = out_interval, progress

    @torch.no_grad()
    def check(self) -> None:
        """Raise ValueError if mask or measure do not fit the pictures, before any long work."""
        mask = self.mask(torch.arange(1), self.image_size)  # (1, 1, S, S)
        if self.measure is not None:
            self.measure(mask)

    def losses(self, fake: Tensor, images: Tensor, weights: Tensor) -> Losses:
        """context, prior, total, each (B,), of candidate pictures fake (B, C, S, S)."""
        if self.measure is None:
            context = context_loss(fake, images, weights)
        else:
            measured, target = self.measure(fake), self.measure(images)
            context = context_loss(measured, target, torch.ones_like(target[:, :1]))
        prior = self.objective.prior(self.discriminator(fake).float())
        return context, prior, context + self.objective.lam * prior

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> Completion:
        """Complete one batch {"image": (B, C, S, S) in [-1, 1], "index": (B,)}."""
        # Lightning predicts without gradients; z needs its own
        with torch.inference_mode(False), torch.enable_grad():
            return self._complete(batch["image"].clone(), batch["index"].clone())

    def _complete(self, images: Tensor, index: Tensor) -> Completion:
        mask = self.mask(index, self.image_size)  # (B, 1, S, S)
        weights = self.objective.weights(mask)  # (B, 1, S, S)
        z = nn.Parameter(self.start(index, seed=self.seed))  # (B, z_dim): all that ever learns
        fake = images  # replaced by G(z) at the first evaluation

        def evaluate(z: Tensor) -> Losses:
            nonlocal fake
            fake = self.generator(z).float()  # (B, C, S, S)
            return self.losses(fake, images, weights)

        steps, every = self.solver.iterations, self.out_interval
        trace = torch.empty(steps + 1, len(z), 3, device=z.device)
        frames, frame_iterations = [], []
        search = tqdm(
            self.solver(z, evaluate, Draws(self.seed, index)),
            total=steps,
            desc="searching z",
            unit="iteration",
            leave=False,
            disable=not self.progress,
        )
        for t, losses in enumerate(search):
            trace[t] = torch.stack(losses, 1)
            if every and t % every == 0:
                frames.append(self.blend(fake.detach(), images, mask))
                frame_iterations.append(t)
        with torch.no_grad():
            trace[steps] = torch.stack(evaluate(z), 1)
        completion = self.blend(fake, images, mask)
        frames.append(completion)
        return Completion(
            index=index,
            images=images,
            mask=mask,
            fake=fake,
            completion=completion,
            z=z.detach(),
            trace=trace,
            frames=torch.stack(frames),
            frame_iterations=[*frame_iterations, steps],
        )

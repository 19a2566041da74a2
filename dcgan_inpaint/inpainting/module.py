"""Completion: search the z whose G(z) agrees with the known pixels and looks real to D.

z_hat = argmin context(z) + lam·prior(z), then the known pixels are put back (Amos 2016; Yeh 2017).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from dcgan_inpaint.images import masked
from dcgan_inpaint.inpainting.objective import Objective
from dcgan_inpaint.inpainting.result import Progress, SearchedCompletion
from dcgan_inpaint.inpainting.search import (
    Candidates,
    Frames,
    Search,
    SearchSettings,
    Stage,
    Start,
    check_stages,
    encoded_start,
    sampled_start,
)
from dcgan_inpaint.inpainting.solvers import Losses, Solver
from dcgan_inpaint.masks.measurements import Holes, Measurement
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.models.networks import frozen
from dcgan_inpaint.models.uncertainty import predicted_error
from dcgan_inpaint.randomness import Draws


class InpaintingModule(LightningModule):
    """A frozen GAN and, during a batch, the learnable z (B·K, z_dim) of its images.

    `mask(index, size)` draws the masks (masks.py), `solver` moves z (solvers.py), `blend` joins
    G(z) and the known pixels (poisson.py).  The context compares what `measure` sees of G(z) and of
    y (measurements.py): by default pixels outside the hole.  `ema=False` searches the raw generator
    instead of its average.  With an `encoder(known, mask)` (latent_encoder.py) the first candidate
    starts from its z, and its offset is added to G's 4x4 map; the second from those for the
    mirrored image.  After z the search continues in the feature maps of the `stages`, in order.

    The start of image i follows from (seed, i) alone, and images do not share a loss, so batch
    neighbours do not change a result.  Batches of another size round otherwise, and a search makes
    that larger: little from an encoder's start, much from a random one (experiments/search.md).
    Raises ValueError for stages, a solver or an encoder that do not fit the GAN or the measurement.
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
        encoder: nn.Module | None = None,
        stages: Sequence[Stage] = (),
        settings: SearchSettings | None = None,
    ):
        super().__init__()
        self.generator = frozen(gan.ema_generator if ema else gan.generator)
        self.discriminator = frozen(gan.discriminator)
        self.latents, self.image_shape = gan.latents, gan.image_shape
        self.mask, self.measure, self.objective = mask, measure or Holes(), objective
        self.solver, self.blend, self.stages = solver, blend, stages
        self.encoder: Any = encoder
        self.settings = settings or SearchSettings()
        # sees the search after each evaluation; what it raises ends the search
        self.watch: Callable[[Progress], None] | None = None
        check_stages(stages, self.generator.levels)
        if encoder is not None and not self.measure.of_pixels:
            raise ValueError("start=encoder needs known pixels: this mask has none")
        if gan.hparams["prior"] == "normal" and solver.bound != "none":
            raise ValueError(
                f"solver.bound={solver.bound}: the checkpoint's z is normal, not in [-1, 1]: "
                "use solver.bound=none"
            )

    @property
    def iterations(self) -> int:
        """Evaluations of G in all."""
        return self.solver.iterations + sum(stage.solver.iterations for stage in self.stages)

    @torch.no_grad()
    def check(self) -> None:
        """Raise ValueError if mask or measure do not fit the images, before any long work."""
        images = torch.zeros(1, *self.image_shape)
        self._known(images, torch.arange(1))
        self.measure.predict(images)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> SearchedCompletion:
        """Complete one batch {"image": (B, C, S, S) in [-1, 1], "index": (B,)}."""
        # Lightning predicts without gradients; z needs its own
        with torch.inference_mode(False), torch.enable_grad():
            return self._complete(batch["image"].clone(), batch["index"].clone())

    def _known(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Masks (B, 1, S, S), and the target of the context loss with its weights."""
        mask = self.mask(index, images.shape[-1])  # (B, 1, S, S)
        target = self.measure.observe(images, index)
        if self.measure.of_pixels:
            return mask, target, self.objective.weights(mask)
        return mask, target, torch.ones_like(target[:, :1])

    def losses(self, fake: Tensor, target: Tensor, weights: Tensor) -> Losses:
        """context, prior, total, each (B,), of candidate images fake (B, C, S, S)."""
        context = self.objective.context(self.measure.predict(fake), target, weights)
        prior = self.objective.prior(self.discriminator(fake).float())
        return context, prior, context + self.objective.lam * prior

    def _start(self, candidates: Candidates, images: Tensor, mask: Tensor) -> Start:
        """Where the rows start, for images (B, C, S, S) and masks (B, 1, S, S)."""
        known, seed = masked(images, mask), self.settings.seed
        if self.encoder is not None and self.encoder.noise_dim:
            with torch.no_grad():
                return sampled_start(self.encoder, candidates, known, mask, seed)
        z = self.latents(candidates.rows, seed=self.settings.seed)  # (B·K, z_dim)
        if self.encoder is None:
            return Start(z)
        with torch.no_grad():
            return encoded_start(
                self.encoder, z, candidates, candidates.of(known), candidates.of(mask)
            )

    def _steps(self, steps: Iterator[Losses]) -> Iterator[Losses]:
        """The same steps, on the trainer's progress bar if it shows one."""
        shown = self._trainer is not None and self._trainer.progress_bar_callback is not None
        return tqdm(
            steps,
            total=self.iterations + 1,
            desc="searching z",
            unit="iteration",
            leave=False,
            disable=not shown,
        )

    def _complete(self, images: Tensor, index: Tensor) -> SearchedCompletion:
        mask, target, weights = self._known(images, index)
        candidates = Candidates(index, self.settings.candidates)
        row_images, row_mask = candidates.of(images), candidates.of(mask)
        losses = partial(self.losses, target=candidates.of(target), weights=candidates.of(weights))
        start = self._start(candidates, images, mask)
        search = Search(self.generator, losses, start)
        z = nn.Parameter(start.z)  # (B·K, z_dim)
        draws = Draws(self.settings.seed, candidates.rows)

        trace = torch.empty(self.iterations + 1, len(z), 3, device=index.device)
        frames = Frames(self.settings.out_interval, self.iterations)
        for t, step in enumerate(self._steps(search.run(z, self.solver, self.stages, draws))):
            trace[t] = torch.stack(step, 1)
            frames.see(t, search)
            if self.watch is not None:
                order = self._order(candidates, trace[t])
                fake = search.fake.detach()
                show = partial(self._show, fake, order, images, mask)
                self.watch(Progress(index, t, self.iterations, trace[t, order[:, 0]], show))

        order = self._order(candidates, trace[-1])
        best = order[:, 0]
        shown = torch.stack([self._show(fake, order, images, mask) for fake in frames.fakes])
        everything = shown[-1][:, None]  # (B, 1, C, S, S)
        if candidates.count > 1:
            everything = self.blend(frames.fakes[-1], row_images, row_mask)[order]
        return SearchedCompletion(
            index=index,
            images=images,
            mask=mask,
            observed=self._observed(images, target, mask),
            fake=self._selected(frames.fakes[-1], order),
            completion=shown[-1],
            z=frames.z[-1][best],
            trace=trace[:, best],
            candidates=everything,  # (B, K, C, S, S)
            fakes=frames.fakes[-1][order],  # (B, K, C, S, S)
            frames=shown,
            frame_z=torch.stack(frames.z)[:, best],
            frame_iterations=frames.iterations,
            predicted_error=self._expected_error(everything, mask),
        )

    def _expected_error(self, candidates: Tensor, mask: Tensor) -> Tensor | None:
        """(B, 1, S, S) of the mean of draws (B, K, C, S, S); of others it was not measured."""
        sampled = self.encoder is not None and self.encoder.noise_dim > 0
        if not sampled or candidates.shape[1] < 2:
            return None
        return predicted_error(candidates, mask, self.encoder.doubt)

    def _observed(self, images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """What is known, to look at: (B, C, S, S)."""
        if self.measure.of_pixels:
            return masked(images, mask)
        return F.interpolate(target, size=images.shape[-1]).expand_as(images)

    def _order(self, candidates: Candidates, losses: Tensor) -> Tensor:
        """The rows (B, K) of each image, the answer's first, by their losses (B·K, 3)."""
        order = candidates.best_first(losses[:, 2])
        # the first draw, whatever the objective says of it
        return order.sort(1).values if self.settings.select == "sample" else order

    def _show(self, fake: Tensor, order: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        """The completions (B, C, S, S) by what the candidates are filled from (B·K, C, S, S)."""
        return self.blend(self._selected(fake, order), images, mask)

    def _selected(self, fake: Tensor, order: Tensor) -> Tensor:
        """(B·K, C, S, S) -> (B, C, S, S): of each image's candidates the first, or their mean."""
        return fake[order].mean(1) if self.settings.select == "mean" else fake[order[:, 0]]

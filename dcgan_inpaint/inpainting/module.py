"""Image completion by a search in the latent space of a GAN (Amos 2016; Yeh 2017)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from dcgan_inpaint.configs import Fraction, NonNegative, WindowSide, checked
from dcgan_inpaint.inpainting.search import Candidates, Search, SearchSettings, Stage, initialize
from dcgan_inpaint.inpainting.solvers import Losses, Solver
from dcgan_inpaint.losses import context_loss, prior_loss, yeh_weights
from dcgan_inpaint.masks.measurements import Holes, Measurement
from dcgan_inpaint.models.base import LatentGAN
from dcgan_inpaint.models.encoder_generator import EncoderGenerator
from dcgan_inpaint.models.networks import freeze
from dcgan_inpaint.models.uncertainty import predict_error
from dcgan_inpaint.randomness import CounterRNG


@dataclass
class Completion:
    """Completed batch of any method.  Images are (B, C, S, S) in [-1, 1]."""

    index: Tensor  # (B,) position of each image in the data set
    images: Tensor  # original images
    mask: Tensor  # (B, 1, S, S), 1 = known
    observed: Tensor  # the measurement as an image; a hole is gray
    fake: Tensor  # content for the hole, such as G(z)
    completion: Tensor  # `fake` blended with the known pixels


@dataclass
class SearchedCompletion(Completion):
    """Completed batch of a search with T iterations, K candidates per image and F stored frames."""

    z: Tensor  # (B, z_dim) final latents, before any stage in a feature map
    trace: Tensor  # (T + 1, B, 3) context, prior and total loss of each evaluation
    candidates: Tensor  # (B, K, C, S, S) completions, best first; by number if select="sample"
    fakes: Tensor  # (B, K, C, S, S) the images that the candidates were blended from
    frames: Tensor  # (F, B, C, S, S) completions during the search
    frame_z: Tensor  # (F, B, z_dim) latents of the frames
    frame_iterations: list[int]  # (F,) iterations of the frames
    predicted_error: Tensor | None = None  # (B, 1, S, S) RMS error of the mean of K >= 2 samples

    @property
    def spread(self) -> Tensor:
        """Standard deviation over K >= 2 candidates, averaged over channels: (B, 1, S, S)."""
        return self.candidates.std(1).mean(1, keepdim=True)


@dataclass
class Progress:
    """State of a search after one evaluation.  It is valid until the next evaluation."""

    index: Tensor  # (B,) position of each image in the data set
    iteration: int  # 0 to `iterations`
    iterations: int
    losses: Tensor  # (B, 3) context, prior and total loss of the best candidate
    show: Callable[[], Tensor]  # renders the current completion, (B, C, S, S) in [-1, 1]


class Objective:
    """Completion objective of one image: context loss + lam·prior loss.

    Args:
        lam: Weight of the prior loss.
        weighting: "mask" weighs all known pixels equally (Amos 2016); "window" weighs known pixels
            near the hole more (Yeh 2017, eq. 2).
        window: Side of the window in pixels, odd, for weighting="window".
        floor: Minimum weight of a known pixel, for weighting="window".
        saturating: Prior loss log(1 - D(G(z))) (Yeh 2017, eq. 3) instead of the cross-entropy of
            D(G(z)) and 1 (Amos 2016).

    Raises:
        ValueError: If an argument is out of range.
    """

    @checked
    def __init__(
        self,
        lam: NonNegative = 0.1,
        weighting: Literal["mask", "window"] = "mask",
        window: WindowSide = 7,
        floor: Fraction = 0.0,
        saturating: bool = False,
    ):
        self.lam, self.weighting, self.saturating = lam, weighting, saturating
        self.window, self.floor = window, floor

    def weights(self, mask: Tensor) -> Tensor:
        """Return the weights (B, 1, H, W) of the context loss for a mask (B, 1, H, W)."""
        return mask if self.weighting == "mask" else yeh_weights(mask, self.window, self.floor)

    def losses(self, fake: Tensor, target: Tensor, weights: Tensor, fake_logits: Tensor) -> Losses:
        """Return the context, prior and total loss of each image, (B,) each.

        Args:
            fake: Measurement of G(z), (B, C, H, W).
            target: Measurement of the original images, (B, C, H, W).
            weights: Weights of the context loss, (B, 1, H, W).
            fake_logits: Logits of D(G(z)), (B,).
        """
        context = context_loss(fake, target, weights)
        prior = prior_loss(fake_logits, self.saturating)
        return context, prior, context + self.lam * prior


class InpaintingModule(LightningModule):
    """Completes images with a frozen GAN and one learnable z for each candidate of an image.

    The search minimizes the objective over z and then, optionally, over feature maps of G.  The
    initial z of image i depends on (seed, i) only, and images share no loss.  So the other images
    of a batch do not change a result.  Another batch size changes the rounding, which a search
    amplifies (experiments/search.md).

    Args:
        gan: Trained GAN; its weights receive no gradients.
        mask: Function (index, size) -> masks (B, 1, S, S), see masks.py.
        objective: Completion objective.
        solver: Solver for z, see solvers.py.
        blend: Function (fake, images, mask) -> completions, see blending.py.
        measure: Measurement that the context loss compares; by default the known pixels.
        ema: Search the averaged generator; False searches the raw one.
        encoder: Latent encoder for the initial z.  A deterministic encoder initializes the first
            candidate from the image and the second from its mirror image.  An encoder that samples
            initializes every candidate.
        stages: Searches in feature maps after the search for z, in order of their level.
        settings: Number of candidates, selection, seed and frames.

    Raises:
        ValueError: If the stages, the solver or the encoder do not fit the GAN or the measurement.
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
        if isinstance(encoder, EncoderGenerator):
            self.generator = encoder.decoder  # trained with its encoder and frozen
        else:
            self.generator = freeze(gan.ema_generator if ema else gan.generator)
        self.discriminator = freeze(gan.discriminator)
        self.latents, self.image_shape = gan.latents, gan.image_shape
        self.mask, self.measure, self.objective = mask, measure or Holes(), objective
        self.solver, self.blend, self.stages = solver, blend, stages
        self.encoder: Any = encoder
        self.settings = settings or SearchSettings()
        # called after each evaluation; an exception ends the search
        self.on_progress: Callable[[Progress], None] | None = None
        used, levels = [stage.level for stage in stages], self.generator.levels
        if used != sorted(set(used)) or max(used, default=0) > levels:
            raise ValueError(
                f"stages: levels {used} do not fit this checkpoint. "
                f"Use increasing levels from 1 to {levels}"
            )
        if encoder is not None and not self.measure.of_pixels:
            raise ValueError(
                "start=encoder: requires known pixels, which this mask does not have. "
                "Use start=random"
            )
        if gan.hparams["prior"] == "normal" and solver.bound != "none":
            raise ValueError(
                f"solver.bound={solver.bound}: the z of this checkpoint is normal, not in [-1, 1]. "
                "Use solver.bound=none"
            )

    @property
    def iterations(self) -> int:
        """Total number of evaluations of G."""
        return self.solver.iterations + sum(stage.solver.iterations for stage in self.stages)

    @property
    def completes_in_one_pass(self) -> bool:
        """Whether a one-pass network completes the images, without a search.

        The completion is then averaged over the image and its mirror image, as in `Model.fill`.
        """
        return isinstance(self.encoder, EncoderGenerator) and self.iterations == 0

    @torch.no_grad()
    def check(self) -> None:
        """Raise ValueError if the mask or the measurement does not fit the image size."""
        images = torch.zeros(1, *self.image_shape)
        self._measurement(images, torch.arange(1))
        self.measure.predict(images)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> SearchedCompletion:
        """Complete a batch {"image": (B, C, S, S) in [-1, 1], "index": (B,)}."""
        # Lightning predicts in inference mode, but the search needs gradients.
        with torch.inference_mode(False), torch.enable_grad():
            return self._complete(batch["image"].clone(), batch["index"].clone())

    def losses(self, fake: Tensor, target: Tensor, weights: Tensor) -> Losses:
        """Return the context, prior and total loss, (B,) each, of images fake (B, C, S, S)."""
        logits = self.discriminator(fake).float()
        return self.objective.losses(self.measure.predict(fake), target, weights, logits)

    def _measurement(self, images: Tensor, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the masks (B, 1, S, S), the measurement, and the weights of the context loss."""
        mask = self.mask(index, images.shape[-1])  # (B, 1, S, S)
        target = self.measure.observe(images, index)
        if self.measure.of_pixels:
            return mask, target, self.objective.weights(mask)
        return mask, target, torch.ones_like(target[:, :1])

    def _progress_bar(self, steps: Iterator[Losses]) -> Iterator[Losses]:
        """Show the steps as a progress bar if the trainer has one."""
        shown = self._trainer is not None and self._trainer.progress_bar_callback is not None
        total = self.iterations + 1
        return tqdm(steps, "searching z", total, unit="iteration", leave=False, disable=not shown)

    def _complete(self, images: Tensor, index: Tensor) -> SearchedCompletion:
        mask, target, weights = self._measurement(images, index)
        candidates = Candidates(index, self.settings.candidates)
        repeat = candidates.repeat
        losses = partial(self.losses, target=repeat(target), weights=repeat(weights))
        known, seed = images * mask, self.settings.seed
        start = initialize(self.encoder, self.latents, candidates, known, mask, seed)
        search = Search(self.generator, losses, start)
        z = nn.Parameter(start.encoding.z)  # (B·K, z_dim)
        rng = CounterRNG(seed, candidates.rows)

        trace = torch.empty(self.iterations + 1, len(z), 3, device=index.device)
        interval = self.settings.out_interval
        frames: list[tuple[int, Tensor, Tensor]] = []  # iteration, images (B·K, C, S, S), z
        steps = search.run(z, self.solver, self.stages, rng)
        for t, step in enumerate(self._progress_bar(steps)):
            trace[t] = torch.stack(step, 1)
            fake = search.fake.detach()  # (B·K, C, S, S)
            if self.completes_in_one_pass:
                fake = (fake + self._mirrored_pass(candidates, known, mask)) / 2
            if t == self.iterations or (interval and t % interval == 0):
                frames.append((t, fake, search.z))
            if self.on_progress is not None:
                order = self._order(candidates, trace[t])  # (B, K)
                show = partial(self._show, fake, order, images, mask)
                best_losses = trace[t, order[:, 0]]
                self.on_progress(Progress(index, t, self.iterations, best_losses, show))

        order = self._order(candidates, trace[-1])  # (B, K)
        best = order[:, 0]
        shown = torch.stack([self._show(fake, order, images, mask) for _, fake, _ in frames])
        completions = shown[-1][:, None]  # (B, 1, C, S, S)
        if candidates.count > 1:
            completions = self.blend(fake, repeat(images), repeat(mask))[order]
        return SearchedCompletion(
            index=index,
            images=images,
            mask=mask,
            observed=self._observed(images, target, mask),
            fake=self._selected(fake, order),
            completion=shown[-1],
            z=search.z[best],
            trace=trace[:, best],
            candidates=completions,  # (B, K, C, S, S)
            fakes=fake[order],  # (B, K, C, S, S)
            frames=shown,
            frame_z=torch.stack([z[best] for _, _, z in frames]),
            frame_iterations=[t for t, _, _ in frames],
            predicted_error=self._predicted_error(completions, mask),
        )

    @torch.no_grad()
    def _mirrored_pass(self, candidates: Candidates, known: Tensor, mask: Tensor) -> Tensor:
        """Complete the mirror images in one pass; return the images (B·K, C, S, S), mirrored back.

        Args:
            candidates: Layout of the rows.
            known: Masked images, (B, C, S, S).
            mask: Masks, (B, 1, S, S).
        """
        known, mask = known.flip(3), mask.flip(3)
        start = initialize(self.encoder, self.latents, candidates, known, mask, self.settings.seed)
        z, offset, skips = start.encoding
        return self.generator(z, offset=offset, skips=skips).flip(3)

    def _predicted_error(self, samples: Tensor, mask: Tensor) -> Tensor | None:
        """Return the predicted error (B, 1, S, S) of the mean of samples (B, K, C, S, S).

        It is calibrated for K >= 2 samples of an encoder only; otherwise the result is None.
        """
        if self.encoder is None or not self.encoder.noise_dim or samples.shape[1] < 2:
            return None
        return predict_error(samples, mask, self.encoder.error_calibration)

    def _observed(self, images: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Return the measurement as images (B, C, S, S)."""
        if self.measure.of_pixels:
            return images * mask
        return F.interpolate(target, size=images.shape[-1]).expand_as(images)

    def _order(self, candidates: Candidates, losses: Tensor) -> Tensor:
        """Return the rows (B, K) of each image, the selected one first; losses (B·K, 3)."""
        order = candidates.best_first(losses[:, 2])
        # select=sample takes the first candidate, independent of its objective.
        return order.sort(1).values if self.settings.select == "sample" else order

    def _show(self, fake: Tensor, order: Tensor, images: Tensor, mask: Tensor) -> Tensor:
        """Blend the selected images of fake (B·K, C, S, S) into completions (B, C, S, S)."""
        return self.blend(self._selected(fake, order), images, mask)

    def _selected(self, fake: Tensor, order: Tensor) -> Tensor:
        """Return the first candidate or the mean: (B·K, C, S, S) -> (B, C, S, S)."""
        return fake[order].mean(1) if self.settings.select == "mean" else fake[order[:, 0]]

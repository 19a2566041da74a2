"""Callbacks of runs: previews, throughput, calibration, and checks for failures and far images."""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor

from dcgan_inpaint.configs import Count, checked
from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.files import save_image
from dcgan_inpaint.images import make_grid
from dcgan_inpaint.inpainting.build import build_preview
from dcgan_inpaint.inpainting.module import Completion
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.photos.far_images import find_far_images, measure_faces
from dcgan_inpaint.runs.trainer import log_image


def training_callbacks(
    model: Model,
    data: ImageDataModule,
    run_dir: Path,
    sample_every: int,
    preview: int,
    monitoring: Sequence[Callback] = (),
) -> list[Callback]:
    """Return the callbacks of a training run, for the constructor of its Trainer.

    Args:
        model: The model to train. Only a GAN gets sample grids and collapse warnings.
        data: Its validation split is read when training starts, if a callback needs it.
        run_dir: Directory of the sample grids, previews and last.ckpt.
        sample_every: Iterations between two sample grids.
        preview: Number of validation images to complete after each epoch; 0 for none.
        monitoring: The callbacks of monitor=.
    """
    callbacks: list[Callback] = [Throughput(), FiniteCheck()]
    if model.gan is model:
        callbacks += [CollapseWarning(), SampleGrid(run_dir, sample_every)]
    if preview:
        callbacks.append(CompletionPreview(run_dir, data, preview))
    if model.needs_calibration:
        callbacks.append(Calibration(data))
    # The checkpoint callback is last, because it stores the changes of the other callbacks.
    return [*callbacks, *monitoring, ModelCheckpoint(run_dir, "last", enable_version_counter=False)]


class StoreSettings(Callback):
    """Stores the settings of a training run in its checkpoints; resuming compares them."""

    def __init__(self, settings: dict[str, Any]):
        self.settings = settings

    def on_save_checkpoint(
        self, trainer: Trainer, module: Model, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["settings"] = self.settings


class Calibration(Callback):
    """Calibrates a model that samples, after each epoch.

    It fits the predicted error, and measures the faces in completions, on `count` validation
    images, which the model is not trained on.
    """

    # The encoders of experiments/sampling.md were calibrated on 128 validation images.
    def __init__(self, data: ImageDataModule, count: int = 128):
        self.data, self.count = data, count

    def on_fit_start(self, trainer: Trainer, module: Model) -> None:
        self.images = validation_images(self.data, self.count)

    def on_train_epoch_end(self, trainer: Trainer, module: Model) -> None:
        module.calibrate(self.images.to(module.device))
        measure_faces(module, self.images)


def validation_images(data: ImageDataModule, count: int) -> Tensor:
    """Return up to `count` validation images (B, C, S, S) in [-1, 1], the first of the split."""
    validation = data.split("val")
    return validation.__getitems__(list(range(min(count, len(validation)))))["image"]


class FarImages(Callback):
    """Finds the completed images that are far from the faces that a model was trained on.

    Args:
        model: The model that completes.

    Attributes:
        found: The positions of these images in the list, of those that this process completes.
    """

    def __init__(self, model: Model):
        self.model = model
        self.found: list[int] = []

    def on_predict_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Completion, *_: object
    ) -> None:
        self.found += find_far_images(self.model, module, outputs)


class SampleGrid(Callback):
    """Writes samples/<iteration>.png, a grid of samples from fixed z, every `every` iterations."""

    @checked
    def __init__(self, run_dir: Path, every: Count = 500, samples: Count = 64):
        self.run_dir, self.every, self.samples = run_dir, every, samples

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: LatentGAN, *_: object) -> None:
        if trainer.is_global_zero and module.iteration % self.every == 0:
            # Negative indices keep these z apart from those of the training images.
            z = module.latents(-1 - torch.arange(self.samples, device=module.device))
            _save_and_log(module, self.run_dir, "samples", make_grid(module(z)))


class CompletionPreview(Callback):
    """Completes the center hole of a few validation images after each epoch.

    Writes completions/<iteration>.png, with rows of masked, completed and true images, and logs
    preview/psnr_hole. With a GAN the search is short: the value shows a trend, not a final result.

    Args:
        run_dir: The run directory.
        data: Provides the validation split.
        count: Number of images, the first of the split.
        iterations: Length of the search with a GAN; the validation at the end of training uses 100.
    """

    def __init__(self, run_dir: Path, data: ImageDataModule, count: int = 8, iterations: int = 60):
        self.run_dir, self.data, self.count, self.iterations = run_dir, data, count, iterations

    def on_fit_start(self, trainer: Trainer, module: Model) -> None:
        self.images = validation_images(self.data, self.count)

    def on_train_epoch_end(self, trainer: Trainer, module: Model) -> None:
        preview = build_preview(module, self.iterations)
        images = self.images.to(module.device)  # (B, C, S, S)
        index = torch.arange(len(images), device=module.device)
        result = preview.predict_step({"image": images, "index": index})
        psnr_hole = psnr(result.completion, images, 1 - result.mask).mean()
        module.log("preview/psnr_hole", psnr_hole, sync_dist=True)
        if trainer.is_global_zero:
            rows = torch.cat([result.observed, result.completion, images])  # (3B, C, S, S)
            image = make_grid(rows, columns=len(images))
            _save_and_log(module, self.run_dir, "completions", image)


def _save_and_log(module: Model, run_dir: Path, name: str, image: Image.Image) -> None:
    save_image(run_dir / name / f"{module.iteration:07d}.png", image)
    log_image(module.loggers, name, image, module.iteration)


class Throughput(Callback):
    """Logs train/images_per_second over the iterations since the previous log."""

    def on_train_start(self, trainer: Trainer, module: Model) -> None:
        self.start, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self, trainer: Trainer, module: Model, outputs: object, batch: dict[str, Tensor], *_: object
    ) -> None:
        self.images += len(batch["image"]) * trainer.world_size
        if module.should_log:
            now = time.perf_counter()
            module.log("train/images_per_second", self.images / (now - self.start), prog_bar=True)
            self.start, self.images = now, 0


class FiniteCheck(Callback):
    """Stops training when a weight is not finite.

    The check runs whenever metrics are logged, at the end of each epoch and before each checkpoint
    is written, so last.ckpt remains the checkpoint of the previous epoch.

    Raises:
        FloatingPointError: If a parameter or buffer is not finite.
    """

    def on_train_batch_end(self, trainer: Trainer, module: Model, *_: object) -> None:
        if module.should_log:
            self._check(module)

    def on_train_epoch_end(self, trainer: Trainer, module: Model) -> None:
        self._check(module)

    def on_save_checkpoint(self, trainer: Trainer, module: Model, *_: object) -> None:
        self._check(module)

    def _check(self, module: Model) -> None:
        state = module.state_dict(keep_vars=True).items()
        broken = [name for name, values in state if not values.isfinite().all()]
        if broken:
            networks = ", ".join(dict.fromkeys(name.split(".")[0] for name in broken))
            raise FloatingPointError(
                f"the weights of {networks} are not finite after iteration {module.iteration}. "
                "Lower model.lr"
            )


STRONGER_GENERATOR = "Train with model.g_steps=3, a smaller model.df_dim or a smaller model.lr"
STRONGER_DISCRIMINATOR = "Train with model.g_steps=1, a larger model.df_dim or a smaller model.lr"
LOW_LOSS_WARNINGS = {
    "train/d_loss": f"d_loss is near zero: the generator learns nothing. {STRONGER_GENERATOR}",
    "train/g_loss": f"g_loss is near zero: D accepts every sample. {STRONGER_DISCRIMINATOR}",
}
# Cross-entropy of a probability of 98%; a discriminator that guesses has ln 2 = 0.69 per term.
COLLAPSED_LOSS = 0.02
# Standard deviation over samples in [-1, 1], mean over pixels. Samples of the faces64 checkpoint
# have 0.34, those of an untrained generator 0.002.
COLLAPSED_SPREAD = 0.02


class CollapseWarning(Callback):
    """Warns, with advice, when the discriminator or the generator has collapsed.

    Args:
        patience: Number of consecutive logs at which a loss must be near zero. A healthy loss can
            be that low for a short time.
        warm_up: Iterations before samples are compared. An untrained generator makes nearly equal
            images, which is no collapse.
    """

    def __init__(self, patience: int = 10, warm_up: int = 500):
        self.patience, self.warm_up = patience, warm_up
        self.low_logs = dict.fromkeys(LOW_LOSS_WARNINGS, 0)

    def on_train_batch_end(self, trainer: Trainer, module: LatentGAN, *_: object) -> None:
        if not module.should_log:
            return
        for name, message in LOW_LOSS_WARNINGS.items():
            low = float(trainer.callback_metrics[name]) < COLLAPSED_LOSS
            self.low_logs[name] = self.low_logs[name] + 1 if low else 0
            if self.low_logs[name] == self.patience:
                self._warn(module, message)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, module: LatentGAN) -> None:
        if module.iteration < self.warm_up:
            return
        samples = module(module.latents(torch.arange(16, device=module.device)), ema=False)
        if samples.std(0).mean() < COLLAPSED_SPREAD:
            self._warn(module, f"all samples look the same. {STRONGER_GENERATOR}")

    def _warn(self, module: LatentGAN, message: str) -> None:
        warnings.warn(f"iteration {module.iteration}: {message}", stacklevel=2)

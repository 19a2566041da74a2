"""What is watched during training: samples, a completion preview, speed, collapse."""

import time
import warnings
from collections.abc import Iterable
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from dcgan_inpaint.configs import Count, checked
from dcgan_inpaint.data.loader import Images
from dcgan_inpaint.files import WholeCheckpoints, save_image
from dcgan_inpaint.images import grid
from dcgan_inpaint.inpainting.build import preview_of
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.models.base import LatentGAN, Model
from dcgan_inpaint.models.latent_encoder import LatentEncoder
from dcgan_inpaint.runs.evaluation import make_trainer
from dcgan_inpaint.runs.faults import Finite
from dcgan_inpaint.runs.loggers import log_image
from dcgan_inpaint.runs.resuming import BegunWith

# for several processes: a step of D leaves G unused, and the other way round
UNUSED = "ddp_find_unused_parameters_true"
CALIBRATED = 128  # validation images that tell how far a sampler's draws should spread


def watchers(
    model: Model, folder: Path, validation: Images | None, sample_every: int, preview: int
) -> list[Callback]:
    """What a training writes to `folder`, warns of and logs: samples of a GAN every so many
    iterations, the first `preview` images of `validation` completed at each epoch's end."""
    callbacks: list[Callback] = [Speed(), Finite()]
    if model.gan is model:  # it has a z to sample from, and learns from samples
        callbacks += [CollapseWarning(), SampleGrid(folder, sample_every)]
    if validation is not None and preview:
        first = list(range(min(preview, len(validation))))
        callbacks.append(CompletionPreview(folder, validation.__getitems__(first)["image"]))
    if validation is not None and model.calibrates:
        some = list(range(min(CALIBRATED, len(validation))))
        callbacks.append(Calibration(validation.__getitems__(some)["image"]))
    return callbacks


def training_trainer(cfg: DictConfig, folder: Path, loggers: Iterable[Logger]) -> Trainer:
    """What trains by conf/train.yaml; it writes last.ckpt to `folder`, which says with which
    settings.

    Of several processes the first says what their batches come to.  Raises ValueError for several
    without a strategy that fits, and what `make_trainer` does.
    """
    checkpoints = ModelCheckpoint(folder, "last", enable_version_counter=False)
    own, plugins = [BegunWith(cfg), checkpoints], WholeCheckpoints()
    trainer = make_trainer(cfg.trainer, logger=loggers, callbacks=own, plugins=plugins)
    if (many := trainer.world_size) > 1:
        if cfg.trainer.get("strategy") != UNUSED:
            raise ValueError(f"trainer.devices={cfg.trainer.devices}: several need trainer=ddp")
        rank_zero_info(
            f"{many} processes: {many * cfg.batch_size} images an iteration; lr as for one; "
            "BatchNorm by the images of each process, moving statistics of the first"
        )
    return trainer


class Calibration(Callback):
    """Adapts a sampling encoder's reward for spread at each epoch's end, by images (B, C, S, S)
    that it is not trained on, and logs what it found."""

    def __init__(self, images: Tensor):
        self.images = images

    def on_train_epoch_end(self, trainer: Trainer, module: LatentEncoder) -> None:
        found = module.calibrate(self.images.to(module.device))
        module.log_dict({f"calibration/{name}": value for name, value in found.items()})


def keep_image(module: Model, folder: Path, name: str, image: Image.Image) -> None:
    """Write an image below `folder`, named by the iteration, and show it in the loggers."""
    save_image(folder / name / f"{module.iteration:07d}.png", image)
    log_image(module.loggers, name, image, module.iteration)


class SampleGrid(Callback):
    """A grid of samples from 64 fixed z, every `every` iterations."""

    @checked
    def __init__(self, folder: Path, every: Count = 500, samples: Count = 64):
        self.folder, self.every, self.samples = folder, every, samples

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, module: LatentGAN, *_: object) -> None:
        if trainer.is_global_zero and module.iteration % self.every == 0:
            z = module.latents(-1 - torch.arange(self.samples, device=module.device))
            keep_image(module, self.folder, "samples", grid(module(z)))


class CompletionPreview(Callback):
    """Complete a few validation images (center hole) at each epoch's end: the true job, watched.

    `images` (B, C, S, S) in [-1, 1].  Logs preview/psnr_hole and the rows masked, completed,
    original.  With a GAN a short search: a trend to follow, not a result to report.
    """

    def __init__(self, folder: Path, images: Tensor, iterations: int = 60):
        self.folder, self.images, self.iterations = folder, images, iterations

    def on_train_epoch_end(self, trainer: Trainer, module: Model) -> None:
        preview = preview_of(module, self.iterations)
        images = self.images.to(module.device)
        index = torch.arange(len(images), device=module.device)
        done = preview.predict_step({"image": images, "index": index})
        quality = psnr(done.completion, images, 1 - done.mask).mean()
        module.log("preview/psnr_hole", quality, sync_dist=True)
        if trainer.is_global_zero:
            rows = torch.cat([done.observed, done.completion, images])
            keep_image(module, self.folder, "completions", grid(rows, columns=len(images)))


class Speed(Callback):
    """Logs train/images_per_second over the iterations since the last log."""

    def on_train_start(self, trainer: Trainer, module: Model) -> None:
        self.since, self.images = time.perf_counter(), 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: Model,
        outputs: object,
        batch: dict[str, Tensor],
        *_: object,
    ) -> None:
        self.images += len(batch["image"]) * trainer.world_size
        if module.logs_now:
            now = time.perf_counter()
            module.log("train/images_per_second", self.images / (now - self.since), prog_bar=True)
            self.since, self.images = now, 0


MORE_G = "Start again with model.g_steps=3, a smaller model.df_dim or a smaller model.lr"
MORE_D = "Start again with model.g_steps=1, a larger model.df_dim or a smaller model.lr"


class CollapseWarning(Callback):
    """Warns, with the remedy, when D or G has collapsed.

    One of the losses below 0.02 at `patience` logs in a row, or 16 samples that differ by less than
    0.02 (standard deviation over samples, mean over pixels, of [-1, 1]) at an epoch's end, once
    `warm_up` iterations are done: an untrained G is flat and still fine.
    """

    def __init__(self, patience: int = 10, warm_up: int = 500):
        self.patience, self.warm_up = patience, warm_up
        self.below = {"train/d_loss": 0, "train/g_loss": 0}

    def on_train_batch_end(self, trainer: Trainer, module: LatentGAN, *_: object) -> None:
        if not module.logs_now:
            return
        for name in self.below:
            loss = float(trainer.callback_metrics[name])
            self.below[name] = self.below[name] + 1 if loss < 0.02 else 0
        if self.below["train/d_loss"] == self.patience:
            self._warn(module, "D has won: d_loss is near zero, G learns nothing", MORE_G)
        if self.below["train/g_loss"] == self.patience:
            self._warn(module, "D is fooled by everything: g_loss is near zero", MORE_D)

    @torch.no_grad()
    def on_train_epoch_end(self, trainer: Trainer, module: LatentGAN) -> None:
        if module.iteration < self.warm_up:
            return
        samples = module(module.latents(torch.arange(16, device=module.device)), ema=False)
        if samples.std(0).mean() < 0.02:
            self._warn(module, "G has collapsed: its samples are all the same", MORE_G)

    def _warn(self, module: LatentGAN, what: str, remedy: str) -> None:
        warnings.warn(f"iteration {module.iteration}: {what}.  {remedy}", stacklevel=2)

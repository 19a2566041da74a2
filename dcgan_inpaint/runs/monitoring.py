"""Evaluation on validation images during training, for the best weights and early stopping."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from dcgan_inpaint.data.loader import ImageDataModule
from dcgan_inpaint.files import write_csv
from dcgan_inpaint.inpainting.build import build_preview
from dcgan_inpaint.inpainting.module import Completion
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import FEATURE_BATCH
from dcgan_inpaint.metrics.sets import frechet_distance
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.models.efficientnet import EfficientNetLite, load_efficientnet
from dcgan_inpaint.runs.callbacks import validation_images
from dcgan_inpaint.runs.report import MONITOR_FILE

MODES = {"fd": "min", "psnr_hole": "max"}  # of each metric of monitor=


def monitoring_callbacks(
    model: Model,
    data: ImageDataModule,
    run_dir: Path,
    monitor: str | None,
    every: int,
    images: int,
    patience: int | None,
) -> list[Callback]:
    """Return the callbacks of monitor=, in the order in which they run; none without monitor.

    Args:
        model: The model to train.
        data: Its validation split is read when training starts.
        run_dir: Directory of best.safetensors and monitor.csv.
        monitor: A metric of MODES, or None.
        every: Epochs between two evaluations.
        images: Largest number of validation images, the first of the split.
        patience: Evaluations without an improvement before the training stops; None never stops it.

    Raises:
        ValueError: If the metric does not apply to the model, or for patience without monitor.
        ModuleNotFoundError: If the extra of the metric is not installed.
    """
    if monitor is None:
        if patience is not None:
            raise ValueError(f"patience={patience}: there is no metric. Set monitor=fd")
        return []
    if monitor == "psnr_hole" and model.gan is model:
        raise ValueError(f"monitor=psnr_hole: a {model.kind} makes no completions. Use monitor=fd")
    network = None
    if monitor == "fd":
        network = load_efficientnet("lite0", model.image_shape[1], "monitor=fd")
    name, mode = f"monitor/{monitor}", MODES[monitor]
    callbacks: list[Callback] = [Monitor(name, data, run_dir, every, images, network)]
    if patience is not None:
        callbacks.append(Patience(name, mode, every, patience))
    return [*callbacks, BestWeights(run_dir, name, mode, every)]


class Monitor(Callback):
    """Evaluates the averaged networks on validation images at the end of every n-th epoch.

    Logs the metric and writes monitor.csv, its values by iteration.  A GAN is evaluated by samples
    from fixed z, as many as images; other models by completions with their training masks, which
    are the same at each evaluation.

    Args:
        name: Name of the metric in the log.
        data: Provides the validation split.
        run_dir: Directory of monitor.csv.
        every: Epochs between two evaluations.
        images: Largest number of images, the first of the split.
        network: Computes the features of the Fréchet distance; None for the PSNR over the hole.
    """

    def __init__(
        self,
        name: str,
        data: ImageDataModule,
        run_dir: Path,
        every: int,
        images: int,
        network: EfficientNetLite | None,
    ):
        self.name, self.data, self.run_dir, self.every = name, data, run_dir, every
        self.count, self.network = images, network
        self.curve: list[list[float]] = []  # iteration and value of each evaluation

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.curve = state["curve"]

    def on_fit_start(self, trainer: Trainer, module: Model) -> None:
        self.images = validation_images(self.data, self.count)  # (N, C, S, S)
        if self.network is not None:
            self.network.to(module.device)
            self.real = self._features(module, self.images.split(FEATURE_BATCH))

    def on_train_epoch_end(self, trainer: Trainer, module: Model) -> None:
        if (trainer.current_epoch + 1) % self.every:
            return
        value = self._evaluate(module)
        module.log(self.name, value, sync_dist=True)
        self.curve.append([module.iteration, value])
        if trainer.is_global_zero:
            write_csv(self.run_dir / MONITOR_FILE, [["iteration", self.name], *self.curve])

    def _evaluate(self, module: Model) -> float:
        if module.gan is module:
            return frechet_distance(self._features(module, self._samples(module)), self.real)
        done = self._completions(module)
        if self.network is None:
            values = [psnr(each.completion, each.images, 1 - each.mask) for each in done]
            return float(torch.cat(values).mean())
        completions = (each.completion for each in done)
        return frechet_distance(self._features(module, completions), self.real)

    @torch.no_grad()
    def _features(self, module: Model, chunks: Iterable[Tensor]) -> Tensor:
        """Return the features (N, FEATURE_DIM) of chunks of images (B, C, S, S) in [-1, 1]."""
        assert self.network is not None
        return torch.cat([self.network(chunk.to(module.device)).pooled.cpu() for chunk in chunks])

    def _samples(self, module: Any) -> Iterator[Tensor]:
        # Negative indices keep these z apart from those of the training images.
        for index in (-1 - torch.arange(len(self.images))).split(FEATURE_BATCH):
            yield module(module.latents(index.to(module.device)))

    def _completions(self, module: Model) -> Iterator[Completion]:
        mask = getattr(module, "mask", None)
        # Training has indices from 0.
        masks = mask and (lambda index, size: mask(-1 - index, size))
        preview = build_preview(module, 0, masks)
        index = torch.arange(len(self.images), device=module.device)
        chunks = (tensor.split(FEATURE_BATCH) for tensor in (self.images, index))
        for images, indices in zip(*chunks, strict=True):
            yield preview.predict_step({"image": images.to(module.device), "index": indices})


class Patience(EarlyStopping):
    """Stops a training after some evaluations without an improvement."""

    def __init__(self, monitor: str, mode: str, every: int, patience: int):
        super().__init__(monitor, mode=mode, patience=patience, check_on_train_epoch_end=True)
        self.every = every

    def on_train_epoch_end(self, trainer: Trainer, module: Model) -> None:
        if (trainer.current_epoch + 1) % self.every == 0:  # otherwise the value is an old one
            super().on_train_epoch_end(trainer, module)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})  # which may change

    def on_train_end(self, trainer: Trainer, module: Model) -> None:
        if trainer.should_stop and self.wait_count >= self.patience:
            rank_zero_info(
                f"training stopped: {self.monitor} has not improved in {self.wait_count} "
                f"evaluations since {self.best_score:.4g}"
            )


class BestWeights(ModelCheckpoint):
    """Keeps best.safetensors, the model at the best value of a metric."""

    FILE_EXTENSION = ".safetensors"

    def __init__(self, run_dir: Path, monitor: str, mode: str, every: int):
        super().__init__(
            run_dir,
            "best",
            monitor,
            mode=mode,
            every_n_epochs=every,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        path = self.format_checkpoint_name({})
        if state_dict["best_k_models"] and Path(path).exists():  # the run may have been moved
            score = state_dict["best_model_score"]
            paths = dict.fromkeys(("best_model_path", "kth_best_model_path"), path)
            state_dict = state_dict | paths
            state_dict |= {"dirpath": self.dirpath, "best_k_models": {path: score}}
        super().load_state_dict(state_dict)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if trainer.is_global_zero:
            save_weights(trainer.lightning_module, filepath)  # type: ignore[arg-type]
        self._last_global_step_saved = trainer.global_step
        self._last_checkpoint_saved = filepath

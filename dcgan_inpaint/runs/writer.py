"""What a completion run leaves behind: a loop over the small writers of records.py, and a table of
how good each picture is."""

import csv
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor, nn

from dcgan_inpaint.completion.result import Completion, SearchedCompletion
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.quality.completions import load_lpips, lpips, mean_interval, quality
from dcgan_inpaint.quality.features import (
    EffLite0,
    compare,
    diversity,
    frechet_distance,
    load_efflite0,
)
from dcgan_inpaint.runs import records
from dcgan_inpaint.runs.folder import log_picture

QUALITY = ("psnr_hole", "psnr_whole", "ssim_hole", "ssim_whole")
SEEN = ("lpips", "feature_distance", "diversity")
COLUMNS = (*QUALITY, *(f"raw_{name}" for name in QUALITY), *SEEN, *records.LOSSES, "seconds")


class Networks(NamedTuple):
    """What looks at completions, where it is asked for."""

    lpips: nn.Module | None = None
    features: EffLite0 | None = None


def load_networks(lpips: str | None, features: bool, side: int) -> Networks:
    """To look at pictures of `side` px.  Raises what `load_lpips` and `load_efflite0` do."""
    return Networks(load_lpips(lpips) if lpips else None, load_efflite0(side) if features else None)


class CompletionWriter(BasePredictionWriter):
    """Writes each batch below `folder` as soon as it is done, and the summary at the end.

    The pictures, and what is kept of a search: see records.py.  metrics.csv, per picture: PSNR (dB)
    and SSIM of the completion and, as raw_..., of what fills the hole before blending; what the
    `networks` see: LPIPS, feature distance to the true picture and, of several candidates, their
    diversity (quality/features.py); the objective at the end; seconds (of its batch, divided).
    summary.csv: mean and 95% interval of each, and fd_efflite0 of all completions against all true
    pictures, for which features.npy keeps the features of both (N, 2, 1280).

    `names` are the pictures' names by index, each its own; `photos` are what they were cropped
    from, if they were; with holes of their own (a mask picture) nobody knows what was there, and
    nothing is compared.  A folder that an earlier run began is continued: `rows` has those it has
    done.  Raises ValueError when its metrics.csv has other columns or features are missing, and for
    networks that would compare where there is no true picture.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        photos: Photos | None = None,
        networks: Networks | None = None,
    ):
        super().__init__(write_interval="batch")
        self.folder, self.names, self.networks = folder, names, networks or Networks()
        self.rows = dict(_read(folder / "metrics.csv"))  # name -> COLUMNS, in the order done
        self.truth = photos is None or not photos.own_holes
        if not self.truth and any(self.networks):
            raise ValueError(
                "lpips=, features=: nothing to compare with: the hole is your photo's own"
            )
        self.features = folder / "features.npy"
        if self.rows and self.networks.features and len(self._pooled()) < len(self.rows):
            raise ValueError(f"{self.features} does not hold all that was completed")
        self.writers: list[Callable[[Path, list[str], Completion], None]] = [records.write_pictures]
        if photos:
            self.writers.append(partial(records.write_photos, photos))
        self.writers.append(records.write_grids)

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Drop what a killed run may have written of a batch that metrics.csv does not list."""
        self.folder.mkdir(parents=True, exist_ok=True)
        rows = ([name, *values] for name, values in self.rows.items())
        records.write_csv(self.folder / "metrics.csv", [["name", *COLUMNS], *rows])
        records.drop_unfinished(self.folder, list(self.rows))

    def on_predict_batch_start(self, *_: object) -> None:
        self.since = time.perf_counter()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        prediction: Completion,
        *_: object,
    ) -> None:
        seconds = (time.perf_counter() - self.since) / len(prediction.index)
        names = [self.names[i] for i in prediction.index.tolist()]
        for write in self.writers:
            write(self.folder, names, prediction)
        if isinstance(prediction, SearchedCompletion):
            for keep in records.SEARCHED:
                keep(self.folder, names, prediction)
        # the last, for it says that a picture is finished
        measured = [[*row, seconds] for row in self._measure(prediction)]
        self.rows |= zip(names, measured, strict=True)
        rows = ([name, *row] for name, row in zip(names, measured, strict=True))
        records.write_csv(self.folder / "metrics.csv", rows, mode="a")

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        summary = self.summary()
        if self.networks.features and len(self.rows) > 1:
            fake, real = self._pooled().unbind(1)  # (N, 1280) each
            summary["fd_efflite0"] = frechet_distance(fake, real), math.nan, math.nan
        rows = [[name, *values, len(self.rows)] for name, values in summary.items()]
        header = ["metric", "mean", "low", "high", "pictures"]
        records.write_csv(self.folder / "summary.csv", [header, *rows])
        for logger in trainer.loggers:
            logger.log_metrics({f"completion/{name}": mean for name, (mean, *_) in summary.items()})
        with Image.open(self.folder / "rows.png") as picture:
            log_picture(trainer.loggers, "completion/rows", picture)

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """Mean and 95% interval over all pictures; what no picture has (no hole) is left out."""
        columns = torch.tensor(list(self.rows.values()), dtype=torch.float64).unbind(1)
        return {
            name: mean_interval(column)
            for name, column in zip(COLUMNS, columns, strict=True)
            if not column.isnan().any()
        }

    def __str__(self) -> str:
        means = {name: mean for name, (mean, *_) in self.summary().items()}
        return ", ".join(
            f"{name} {means[name]:.2f} dB" if "psnr" in name else f"{name} {means[name]:.3f}"
            for name in QUALITY
            if name in means
        )

    def _measure(self, done: Completion) -> list[list[float]]:
        """All of COLUMNS but the seconds, of each picture."""
        hole = 1 - done.mask
        unknown = torch.full((len(hole),), math.nan, device=hole.device)
        columns = [unknown] * 2 * len(QUALITY)
        if self.truth:
            pairs = (quality(made, done.images, hole) for made in (done.completion, done.fake))
            columns = [by_name[name] for by_name in pairs for name in QUALITY]
        columns += self._see(done, unknown)
        if isinstance(done, SearchedCompletion):
            columns += done.trace[-1].unbind(1)
        else:
            columns += [unknown] * len(records.LOSSES)
        return torch.stack(columns, 1).tolist()  # (B, 14)

    def _see(self, done: Completion, unknown: Tensor) -> list[Tensor]:
        """SEEN, (B,) each; the features that fd_efflite0 needs are kept."""
        perceptual = distance = spread = unknown
        if self.networks.lpips is not None:
            network = self.networks.lpips.to(unknown.device)
            perceptual = lpips(done.completion, done.images, network)
        if self.networks.features is not None:
            features = self.networks.features.to(unknown.device)
            distance, pooled = compare(done.completion, done.images, features)
            records.append(self.features, pooled)
            if isinstance(done, SearchedCompletion) and done.candidates.shape[1] > 1:
                spread = diversity(done.candidates, features)
        return [perceptual, distance, spread]

    def _pooled(self) -> Tensor:
        """features.npy, (N, 2, 1280); no rows when it is not there."""
        if not self.features.is_file():
            return torch.empty(0, 2, 0)
        return torch.from_numpy(np.load(self.features))


def _read(path: Path) -> Iterator[tuple[str, list[float]]]:
    """The finished rows of a metrics.csv, if there is one."""
    if not path.is_file():
        return
    with path.open(newline="") as file:
        rows = csv.reader(file)
        if next(rows, None) != ["name", *COLUMNS]:
            raise ValueError(
                f"{path} has other columns than this version writes: use another output"
            )
        for row in rows:
            if len(row) == 1 + len(COLUMNS):
                yield row[0], [float(value) for value in row[1:]]

"""What a completion run leaves behind: pictures, metrics, the trace of the search, z."""

import csv
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import nn

from dcgan_inpaint.completion.result import Completion, SearchedCompletion
from dcgan_inpaint.pictures import grid, place, save_gif, to_pil
from dcgan_inpaint.quality.completions import lpips, mean_interval, psnr, ssim
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.runs.folder import log_picture

QUALITY = ("psnr_hole", "psnr_whole", "ssim_hole", "ssim_whole")
LOSSES = ("context", "prior", "total")
COLUMNS = (*QUALITY, *(f"raw_{name}" for name in QUALITY), "lpips", *LOSSES, "seconds")
SHOWN = 64  # pictures in the grids, the first of the list


class CompletionWriter(BasePredictionWriter):
    """Writes each batch below `folder` as soon as it is done, and the summary at the end.

    before.png, masked.png, generated.png, completed.png: grids of the first 64; rows.png: the
    first 8, original above masked above completed.  completed/: one file per picture; photos/: the
    same put back into the full-size photo it was cropped from, when there are `photos`.
    metrics.csv, per picture: PSNR (dB) and SSIM of the completion and, as raw_..., of what fills
    the hole before blending; LPIPS, if its network is given (metrics.load_lpips); the objective at
    the end; seconds (of its batch, divided).
    summary.csv: mean and 95% interval of each.

    Of a search: trace.csv: (iteration, context, prior, total) per picture.  z.npy: (N, z_dim).
    When frames were kept, frames/ and search.gif: the first 64 as the search went, and z_frames.npy
    (N, F, z_dim).  With several candidates, candidates/: all of each picture, the best first, and
    mean.png and spread.png over them (the first 64; spread is the standard deviation, white at a
    quarter of the range).

    `names` are the pictures' names by index, each its own.  A folder that an earlier run began is
    gone on with: `finished` are the names it has done.  Raises ValueError when its metrics.csv
    has other columns.
    """

    def __init__(
        self,
        folder: Path,
        names: list[str],
        photos: Photos | None = None,
        lpips_network: nn.Module | None = None,
    ):
        super().__init__(write_interval="batch")
        self.folder, self.names, self.photos = folder, names, photos
        self.lpips_network = lpips_network
        self.rows = dict(_read(folder / "metrics.csv"))  # name -> COLUMNS, in the order done

    @property
    def finished(self) -> set[str]:
        return set(self.rows)

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Drop what a killed run may have written of a batch that metrics.csv does not list."""
        (self.folder / "completed").mkdir(parents=True, exist_ok=True)
        rows = ([name, *values] for name, values in self.rows.items())
        self._write("metrics.csv", [["name", *COLUMNS], *rows])
        if (self.folder / "trace.csv").is_file():
            with (self.folder / "trace.csv").open(newline="") as file:
                kept = (row for row in csv.reader(file) if row[0] in {"name", *self.rows})
                self._write("trace.csv", kept)
        for path in self.folder.glob("z*.npy"):
            _save(path, np.load(path)[: len(self.rows)])

    def on_predict_batch_start(self, *_: object) -> None:
        self.since = time.perf_counter()

    def write_on_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        prediction: Completion,
        batch_indices: object,
        batch: dict[str, torch.Tensor],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        seconds = (time.perf_counter() - self.since) / len(prediction.index)
        names = [self.names[i] for i in prediction.index.tolist()]
        for name, completion in zip(names, prediction.completion, strict=True):
            to_pil(completion).save(self.folder / "completed" / f"{name}.png")
        if self.photos:
            (self.folder / "photos").mkdir(exist_ok=True)
            for name, i, fake in zip(
                names, prediction.index.tolist(), prediction.fake, strict=True
            ):
                self.photos.completed(i, fake).save(self.folder / "photos" / f"{name}.png")
        if isinstance(prediction, SearchedCompletion):
            self._write_search(names, prediction)
        self._write_grids(prediction)
        # the last, for it says that a picture is finished
        measured = [[*row, seconds] for row in self._measure(prediction)]
        self.rows |= zip(names, measured, strict=True)
        rows = ([name, *row] for name, row in zip(names, measured, strict=True))
        self._write("metrics.csv", rows, mode="a")

    def on_predict_end(self, trainer: Trainer, module: LightningModule) -> None:
        summary = self.summary()
        rows = [[name, *values, len(self.rows)] for name, values in summary.items()]
        self._write("summary.csv", [["metric", "mean", "low", "high", "pictures"], *rows])
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

    def _write(self, name: str, rows: Iterable[list], mode: str = "w") -> None:
        """Rows of a CSV file; a whole file is in place at once or not at all."""
        path = self.folder / name
        target = path if mode == "a" else path.with_suffix(".part")
        with target.open(mode, newline="") as file:
            csv.writer(file).writerows(rows)
        target.replace(path)

    def _measure(self, done: Completion) -> list[list[float]]:
        """All of COLUMNS but the seconds, of each picture."""
        hole = 1 - done.mask
        columns = [
            metric(pictures, done.images, where)
            for pictures in (done.completion, done.fake)
            for metric in (psnr, ssim)
            for where in (hole, None)
        ]
        unknown = torch.full_like(columns[0], float("nan"))
        if self.lpips_network is not None:
            columns.append(lpips(done.completion, done.images, self.lpips_network.to(hole.device)))
        else:
            columns.append(unknown)
        if isinstance(done, SearchedCompletion):
            columns += done.trace[-1].unbind(1)
        else:
            columns += [unknown] * len(LOSSES)
        return torch.stack(columns, 1).tolist()  # (B, 12)

    def _write_search(self, names: list[str], done: SearchedCompletion) -> None:
        if done.candidates.shape[1] > 1:
            (self.folder / "candidates").mkdir(exist_ok=True)
            for name, candidates in zip(names, done.candidates, strict=True):
                grid(candidates).save(self.folder / "candidates" / f"{name}.png")
        if not (self.folder / "trace.csv").exists():
            self._write("trace.csv", [["name", "iteration", *LOSSES]])
        traces = done.trace.transpose(0, 1).tolist()  # (B, T + 1, 3)
        rows = (
            [name, t, *losses]
            for name, trace in zip(names, traces, strict=True)
            for t, losses in enumerate(trace)
        )
        self._write("trace.csv", rows, mode="a")
        arrays = {"z": done.z}
        if len(done.frame_iterations) > 1:
            arrays["z_frames"] = done.frame_z.transpose(0, 1)  # (B, F, z_dim)
        for name, array in arrays.items():
            path = self.folder / f"{name}.npy"
            before = [np.load(path)] if path.exists() else []
            _save(path, np.concatenate([*before, array.cpu().numpy()]))

    def _write_grids(self, done: Completion) -> None:
        """Put the pictures in their places of the grids, as far as they are shown."""
        shown = done.index < SHOWN  # (B,)
        index = done.index[shown].tolist()
        cells = [(i // 8, i % 8) for i in index]
        stages = {
            "before": done.images[shown],
            "masked": done.observed[shown],
            "generated": done.fake[shown],
            "completed": done.completion[shown],
        }
        if isinstance(done, SearchedCompletion) and done.candidates.shape[1] > 1:
            candidates = done.candidates[shown]  # (B, K, C, S, S)
            stages["mean"] = candidates.mean(1)
            # a standard deviation of 0.5, a quarter of the range, is white
            spread = candidates.std(1).mean(1, keepdim=True) / 0.25 - 1  # (B, 1, S, S)
            stages["spread"] = spread.expand_as(candidates[:, 0])
        for name, pictures in stages.items():
            place(self.folder / f"{name}.png", pictures, cells)
        for row, name in enumerate(("before", "masked", "completed")):
            first = [(row, i) for i in index if i < 8]
            place(self.folder / "rows.png", stages[name][: len(first)], first)
        if isinstance(done, SearchedCompletion) and len(done.frame_iterations) > 1 and index:
            (self.folder / "frames").mkdir(exist_ok=True)
            files = [self.folder / "frames" / f"{t:05d}.png" for t in done.frame_iterations]
            for file, frame in zip(files, done.frames[:, shown], strict=True):
                place(file, frame, cells)
            save_gif([Image.open(file) for file in files], self.folder / "search.gif")


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


def _save(path: Path, array: np.ndarray) -> None:
    """np.save, whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)

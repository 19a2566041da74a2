"""What a completion run leaves behind: pictures, metrics, the trace of the search, z."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor

from dcgan_inpaint.figures import grid, save_gif, to_pil
from dcgan_inpaint.inpainting import Completion
from dcgan_inpaint.metrics import psnr, ssim
from dcgan_inpaint.photos import Photos

METRICS = ("psnr_hole", "psnr_whole", "ssim_hole", "ssim_whole")
LOSSES = ("context", "prior", "total")
SHOWN = 64  # pictures in the grids


class CompletionWriter(BasePredictionWriter):
    """Writes each batch below `folder` as soon as it is done, and the summary at the end.

    before.png, masked.png, generated.png, completed.png: grids of the first 64; rows.png: the
    first 8, original above masked above completed.  completed/: one file per picture; photos/: the
    same put back into the full-size photo it was cropped from, when there are `photos`.
    metrics.csv: PSNR (dB) and SSIM of the blended picture, and the objective at the end.
    trace.csv: (iteration, context, prior, total) per picture.  z.npy: (N, z_dim).  When frames
    were kept, frames/ and search.gif: the first 64 as the search went, and z_frames.npy
    (N, F, z_dim).  With several candidates, candidates/: all of each picture, the best first, and
    mean.png and spread.png over them (the first 64; spread is the standard deviation, white at a
    quarter of the range).

    `names` are the pictures' names by index.
    """

    def __init__(self, folder: Path, names: list[str], photos: Photos | None = None):
        super().__init__(write_interval="batch")
        self.folder, self.names, self.photos = folder, names, photos

    def on_predict_start(self, trainer: Trainer, module: LightningModule) -> None:
        (self.folder / "completed").mkdir(parents=True, exist_ok=True)
        self.rows: list[list[float]] = []
        self.shown: list[Completion] = []
        self.z: list[Tensor] = []
        self._append("metrics.csv", [["name", *METRICS, *LOSSES]], mode="w")
        self._append("trace.csv", [["name", "iteration", *LOSSES]], mode="w")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        prediction: Completion,
        batch_indices: object,
        batch: dict[str, Tensor],
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        names = [self.names[i] for i in prediction.index.tolist()]
        for name, candidates in zip(names, prediction.candidates, strict=True):
            to_pil(candidates[0]).save(self.folder / "completed" / f"{name}.png")
            if len(candidates) > 1:
                (self.folder / "candidates").mkdir(exist_ok=True)
                grid(candidates).save(self.folder / "candidates" / f"{name}.png")
        if self.photos:
            (self.folder / "photos").mkdir(exist_ok=True)
            for name, i, fake in zip(
                names, prediction.index.tolist(), prediction.fake, strict=True
            ):
                self.photos.completed(i, fake).save(self.folder / "photos" / f"{name}.png")
        rows = _measure(prediction)
        self.rows += rows
        self._append("metrics.csv", ([n, *row] for n, row in zip(names, rows, strict=True)))
        traces = prediction.trace.transpose(0, 1).tolist()  # (B, T + 1, 3)
        self._append(
            "trace.csv",
            (
                [name, t, *losses]
                for name, trace in zip(names, traces, strict=True)
                for t, losses in enumerate(trace)
            ),
        )
        self.z.append(prediction.frame_z.transpose(0, 1).cpu())  # (B, F, z_dim), the last is z
        np.save(self.folder / "z.npy", torch.cat(self.z)[:, -1].numpy())
        if self.z[0].shape[1] > 1:
            np.save(self.folder / "z_frames.npy", torch.cat(self.z).numpy())
        if sum(len(done.index) for done in self.shown) < SHOWN:
            self.shown.append(prediction)
            self._write_grids()

    def summary(self) -> str:
        """The means over all pictures; a metric without a hole to measure is left out."""
        means = np.array(self.rows, dtype=float)[:, : len(METRICS)].mean(0)
        known = [(n, m) for n, m in zip(METRICS, means, strict=True) if not np.isnan(m)]
        return ", ".join(
            f"{name} {mean:.2f} dB" if "psnr" in name else f"{name} {mean:.3f}"
            for name, mean in known
        )

    def _append(self, name: str, rows: Iterable[list], mode: str = "a") -> None:
        with (self.folder / name).open(mode, newline="") as file:
            csv.writer(file).writerows(rows)

    def _write_grids(self) -> None:
        pictures = {
            "before": torch.cat([done.images for done in self.shown]),
            "masked": torch.cat([done.observed for done in self.shown]),
            "generated": torch.cat([done.fake for done in self.shown]),
            "completed": torch.cat([done.completion for done in self.shown]),
        }
        for name, batch in pictures.items():
            grid(batch[:SHOWN]).save(self.folder / f"{name}.png")
        if self.shown[0].candidates.shape[1] > 1:
            candidates = torch.cat([done.candidates for done in self.shown])[:SHOWN]
            grid(candidates.mean(1)).save(self.folder / "mean.png")
            # a standard deviation of 0.5, a quarter of the range, is white
            spread = candidates.std(1).mean(1, keepdim=True) / 0.25 - 1
            grid(spread.expand_as(candidates[:, 0])).save(self.folder / "spread.png")
        rows = [pictures[name][:8] for name in ("before", "masked", "completed")]
        grid(torch.cat(rows), columns=len(rows[0])).save(self.folder / "rows.png")
        if self.shown[0].frame_iterations[:-1]:
            self._write_frames(torch.cat([done.frames for done in self.shown], 1)[:, :SHOWN])

    def _write_frames(self, frames: Tensor) -> None:
        (self.folder / "frames").mkdir(exist_ok=True)
        pictures: list[Image.Image] = [grid(frame) for frame in frames]
        for t, picture in zip(self.shown[0].frame_iterations, pictures, strict=True):
            picture.save(self.folder / "frames" / f"{t:05d}.png")
        save_gif(pictures, self.folder / "search.gif")


def _measure(done: Completion) -> list[list[float]]:
    """METRICS and the last LOSSES of each picture."""
    hole = 1 - done.mask
    columns = [
        psnr(done.completion, done.images, hole),
        psnr(done.completion, done.images),
        ssim(done.completion, done.images, hole),
        ssim(done.completion, done.images),
        *done.trace[-1].unbind(1),
    ]
    return torch.stack(columns, 1).tolist()  # (B, 7)

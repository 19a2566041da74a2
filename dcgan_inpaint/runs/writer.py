"""What a completion run leaves behind: the records of its images, what is shown of them, and a
table of how good each is."""

import math
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from torch import Tensor, nn

from dcgan_inpaint.data.loader import Images
from dcgan_inpaint.files import write_csv
from dcgan_inpaint.inpainting.module import Completion, SearchedCompletion
from dcgan_inpaint.metrics.completions import completion_metrics, load_lpips, lpips, mean_interval
from dcgan_inpaint.metrics.features import (
    EffLite0,
    compare,
    diversity,
    frechet_distance,
    load_efflite0,
)
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.runs import records, shown
from dcgan_inpaint.runs.page import write_page

QUALITY = ("psnr_hole", "psnr_whole", "ssim_hole", "ssim_whole")
SEEN = ("lpips", "feature_distance", "diversity")
COLUMNS = (*QUALITY, *(f"raw_{name}" for name in QUALITY), *SEEN, *shown.LOSSES, "seconds")


class Networks(NamedTuple):
    """What looks at completions, where it is asked for."""

    lpips: nn.Module | None = None
    features: EffLite0 | None = None


def load_networks(lpips: str | None, features: bool, side: int) -> Networks:
    """To look at images of `side` px.  Raises what `load_lpips` and `load_efflite0` do."""
    return Networks(load_lpips(lpips) if lpips else None, load_efflite0(side) if features else None)


class CompletionWriter(BasePredictionWriter):
    """Keeps a record of each image below `folder` as soon as its batch is done (records.py), and
    shows them all at the end (shown.py).

    `images` are to be completed, the first `limit`, or all of them if they are crops of `photos`;
    with holes of their own (a mask image) nobody knows what was there, and nothing is compared.
    `settings` is a word for all else that results depend on (folder.check_same).  A folder that an
    earlier run began is continued: `rows` has what was measured of each image with a record
    there.

    index.html: the page of it all (page.py).

    metrics.csv, per image: PSNR (dB) and SSIM of the completion and, as raw_..., of what fills
    the hole before blending; what the `networks` see: LPIPS, feature distance to the true image
    and, of several candidates, their diversity (quality/features.py); the objective at the end;
    seconds (of its batch, divided).  summary.csv: mean and 95% interval of each, and fd_efflite0 of
    all completions against all true images.

    Raises ValueError for networks that would compare where there is no true image.
    """

    def __init__(
        self,
        folder: Path,
        images: Images,
        limit: int | None = None,
        photos: Photos | None = None,
        networks: Networks | None = None,
        settings: str = "",
    ):
        super().__init__(write_interval="batch")
        self.folder, self.images, self.photos = folder, images, photos
        self.networks, self.settings = networks or Networks(), settings
        self.names = images.labels[: None if photos else limit]  # photos are as many as asked for
        self.truth = photos is None or not photos.own_holes
        if not self.truth and any(self.networks):
            raise ValueError(
                "lpips=, features=: nothing to compare with: the hole is your photo's own"
            )
        self.rows: dict[int, list[float]] = {}  # index -> COLUMNS
        self.reread()

    def reread(self) -> bool:
        """Look for the records that are not known yet, which other processes may have written;
        whether each image has one now."""
        for i in range(len(self.names)):
            if i not in self.rows and (kept := self._read(i)) is not None:
                self.rows[i] = kept["measured"].tolist()
        return len(self.rows) == len(self.names)

    @property
    def place(self) -> Path:
        """Where to look first: the grid, or the completed photos; the one, if there is but one."""
        if self.photos is None:
            return self.folder / "completed.png"
        one = [f"{self.names[-1]}.png"] if len(set(self.photos.of)) == 1 else []
        return self.folder.joinpath("photos", *one)

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
        batch = records.kept_of(prediction, fakes=self.photos is not None)
        measured = [[*row, seconds] for row in self._measure(prediction, batch)]
        for kept, row in zip(batch, measured, strict=True):
            kept["measured"] = torch.tensor(row, dtype=torch.float64)
        index = prediction.index.tolist()
        # some may be there for the sake of the others alone; see evaluation.complete
        new = {i: kept for i, kept in zip(index, batch, strict=True) if i not in self.rows}
        for i, kept in new.items():
            shown.forget_image(self.folder, self.names[i])
            shown.show_image(self.folder, self.names[i], i, kept, self.photos)
        with ThreadPoolExecutor() as pool:  # a disk takes many at once
            list(pool.map(self._keep, new, new.values()))
        self.rows |= {i: kept["measured"].tolist() for i, kept in new.items()}

    def write_report(self) -> dict[str, tuple[float, float, float]]:
        """Write all that is shown once every image has its record, and return the summary."""
        pooled: list[Tensor] = []
        first: list[records.Kept] = []
        objectives: list[Tensor] = []

        def each() -> Iterator[records.Kept]:
            for i, name in enumerate(self.names):
                if (kept := self._read(i)) is None:
                    raise OSError(f"{self._path(i)}: was written, and cannot be read")
                shown.show_image(self.folder, name, i, kept, self.photos)
                pooled.extend([kept["features"]] if "features" in kept else [])
                first.extend([kept] if "before" in kept else [])
                objectives.extend([kept["trace"][:, 2]] if "trace" in kept else [])
                yield kept

        shown.show_all(self.folder, self.names, each())
        summary = self.summary()
        if len(pooled) > 1:
            fake, real = torch.stack(pooled).unbind(1)  # (N, 1280) each
            summary["fd_efflite0"] = frechet_distance(fake, real), math.nan, math.nan
        rows = [[self.names[i], *self.rows[i]] for i in range(len(self.names))]
        write_csv(self.folder / "metrics.csv", [["name", *COLUMNS], *rows])
        means = [[name, *values, len(self.names)] for name, values in summary.items()]
        header = ["metric", "mean", "low", "high", "images"]
        write_csv(self.folder / "summary.csv", [header, *means])
        write_page(
            self.folder / "index.html",
            self.folder.name,
            self.names,
            first,
            [self.rows[i][COLUMNS.index("psnr_hole")] for i in range(len(self.names))],
            torch.stack(objectives).mean(0) if objectives else None,
            summary,
        )
        return summary

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """Mean and 95% interval over all images; what no image has (no hole) is left out."""
        rows = [self.rows[i] for i in range(len(self.names))]
        columns = torch.tensor(rows, dtype=torch.float64).unbind(1)
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

    def _path(self, i: int) -> Path:
        return self.folder / records.ROOM / f"{i:05d}.safetensors"

    def _about(self, i: int) -> dict[str, str]:
        """Whose record it is, and what it holds."""
        what = zlib.crc32(self.images.images[i].tobytes())
        if self.photos is not None:
            what = zlib.crc32(self.photos.known[i].numpy().tobytes(), what)
        return {
            "name": self.names[i],
            "image": f"{what:08x}",
            "settings": self.settings,
            "measured": " ".join(COLUMNS),
        }

    def _keep(self, i: int, kept: records.Kept) -> None:
        records.write_record(self._path(i), kept, self._about(i))

    def _read(self, i: int) -> records.Kept | None:
        """The record of image i, if there is a whole one of this image."""
        kept, about = records.read_record(self._path(i)) or (None, {})
        return kept if about == self._about(i) else None

    def _measure(self, done: Completion, batch: list[records.Kept]) -> list[list[float]]:
        """All of COLUMNS but the seconds, of each image."""
        hole = 1 - done.mask
        unknown = torch.full((len(hole),), math.nan, device=hole.device)
        columns = [unknown] * 2 * len(QUALITY)
        if self.truth:
            pairs = (
                completion_metrics(made, done.images, hole) for made in (done.completion, done.fake)
            )
            columns = [by_name[name] for by_name in pairs for name in QUALITY]
        columns += self._see(done, batch, unknown)
        if isinstance(done, SearchedCompletion):
            columns += done.trace[-1].unbind(1)
        else:
            columns += [unknown] * len(shown.LOSSES)
        return torch.stack(columns, 1).tolist()  # (B, 14)

    def _see(self, done: Completion, batch: list[records.Kept], unknown: Tensor) -> list[Tensor]:
        """SEEN, (B,) each; the features that fd_efflite0 needs are kept."""
        perceptual = distance = spread = unknown
        if self.networks.lpips is not None:
            network = self.networks.lpips.to(unknown.device)
            perceptual = lpips(done.completion, done.images, network)
        if self.networks.features is not None:
            features = self.networks.features.to(unknown.device)
            distance, pooled = compare(done.completion, done.images, features)
            for kept, two in zip(batch, pooled.cpu(), strict=True):  # (2, 1280)
                kept["features"] = two.contiguous()
            if isinstance(done, SearchedCompletion) and done.candidates.shape[1] > 1:
                spread = diversity(done.candidates, features)
        return [perceptual, distance, spread]

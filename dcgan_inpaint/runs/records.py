"""Records of completed images: one file per image, from which the report can be rebuilt."""

import json
import math
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import BasePredictionWriter
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.checksums import CHECKSUM, checksum
from dcgan_inpaint.data.batches import ImageDataset
from dcgan_inpaint.files import atomic_write, open_safetensors, save_image
from dcgan_inpaint.images import make_grid, to_uint8
from dcgan_inpaint.inpainting.module import Completion, SearchedCompletion
from dcgan_inpaint.metrics.completions import completion_metrics, lpips
from dcgan_inpaint.metrics.features import compare, diversity
from dcgan_inpaint.models.efficientnet import EfficientNetLite
from dcgan_inpaint.photos.photos import Photos

RECORDS = "records"  # directory of the records in a run directory
GRID_IMAGES = 64  # images in the grids, the first of the list: eight rows of eight
PNG_END = b"IEND\xaeB`\x82"  # the last chunk of a PNG file and its checksum

LOSSES = ("context", "prior", "total")
METRICS = (  # columns of metrics.csv
    *("psnr_hole", "psnr_whole", "ssim_hole", "ssim_whole"),
    *("raw_psnr_hole", "raw_psnr_whole", "raw_ssim_hole", "raw_ssim_whole"),
    *("lpips", "feature_distance", "diversity", *LOSSES, "seconds"),
)


@dataclass
class Record:
    """Stored result of one image.

    Attributes:
        name: Name of its image files, without suffix.
        image: Checksum of the image and, for a photo, of its mask.
        settings: Fingerprint of everything else that affects the result.
        metrics: Value of each of `METRICS`, nan where it does not apply.
        tensors: Tensors by name; images are uint8 (C, S, S).

            - completed: The completion.
            - fake: For photos, the image in [-1, 1] that fills the hole before blending.
            - fakes (K, C, S, S): The same of all candidates, if there are several.
            - features: With `features=true`, pooled features (2, 1280) of completion and image.
            - z (z_dim,), trace (T + 1, 3): Latent of a search, and its losses as in `LOSSES`.
            - candidates (K, C, S, S): All completions if there are several, the best first.
            - frame_z (F, z_dim): Latents during the search.
            - before, masked, generated, mean, spread, frames (F, C, S, S), frame_iterations (F,):
              What the grids show, for the first `GRID_IMAGES` images.
    """

    name: str
    image: str
    settings: str
    metrics: dict[str, float]
    tensors: dict[str, Tensor]


def write_record(path: Path, record: Record) -> None:
    """Write a record atomically, with a checksum."""
    metadata = {
        "name": record.name,
        "image": record.image,
        "settings": record.settings,
        "metrics": json.dumps(record.metrics),
    }
    data = save(record.tensors, {**metadata, CHECKSUM: checksum(record.tensors, metadata)})
    with atomic_write(path, durable=True) as file:
        file.write(data)


def read_record(path: Path) -> Record | None:
    """Read a record of this or an earlier version; return None if it is missing or damaged."""
    try:
        with open_safetensors(path) as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    if metadata.pop(CHECKSUM, None) != checksum(tensors, metadata):
        return None
    if "measured" in metadata:  # 7f30de1 and before: metrics are one tensor, named in the metadata
        names, values = metadata.pop("measured").split(), tensors.pop("measured").tolist()
        metadata["image"] = metadata.pop("picture")
        metrics = dict(zip(names, values, strict=True))
    else:
        metrics = json.loads(metadata.pop("metrics"))
    return Record(**metadata, metrics=metrics, tensors=tensors)


def read_records(run_dir: Path) -> Iterator[Record]:
    """Read the complete records of a run in order."""
    return filter(None, map(read_record, sorted((run_dir / RECORDS).glob("*.safetensors"))))


def write_images(
    run_dir: Path,
    i: int,
    record: Record,
    photos: Photos | None,
    fakes: dict[int, list[Tensor]],
    replace: bool = False,
) -> None:
    """Write the image files of one record that are missing or damaged.

    These are completed/, candidates/ (if there are several) and photos/: the full-size photo with
    all its completed crops, written together with its last crop.  If there are several candidates,
    samples/ has the photo with each of them.

    Args:
        run_dir: The run directory.
        i: Position of the image in the list.
        record: Its record.
        photos: The photos that the images were cropped from, if any.
        fakes: What fills the crops of unfinished photos, by position: in the completion and in
            each candidate; updated by each call.
        replace: Whether existing files are outdated.
    """
    tensors = record.tensors
    images: dict[str, Callable[[], Image.Image]] = {}
    images[f"completed/{record.name}.png"] = lambda: to_pil_image(tensors["completed"])
    if "candidates" in tensors:
        images[f"candidates/{record.name}.png"] = lambda: make_grid(tensors["candidates"])
    outdated = list(images)
    if photos is not None:
        fakes[i] = [tensors["fake"], *tensors.get("fakes", ())]
        crops = photos.crops_with(i)
        name = photos.images.labels[crops[-1]]
        paths = [f"photos/{name}.png"]
        paths += [f"samples/{name}_{k}.png" for k in range(1, len(fakes[i]))]
        outdated += paths
        if i == crops[-1] and fakes.keys() >= set(crops):
            rows = zip(*(fakes.pop(k) for k in crops), strict=True)
            for path, row in zip(paths, rows, strict=True):
                images[path] = partial(photos.complete, dict(zip(crops, row, strict=True)))
    if replace:
        for path in outdated:
            (run_dir / path).unlink(missing_ok=True)
    for path, make_image in images.items():
        if not _is_complete_png(run_dir / path):
            save_image(run_dir / path, make_image())


def _is_complete_png(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # compares the checksum of each chunk
        return path.read_bytes().endswith(PNG_END)  # PIL ignores data after the last chunk
    except (OSError, SyntaxError):  # PIL raises SyntaxError for a damaged PNG file
        return False


class CompletionWriter(BasePredictionWriter):
    """Writes the record and the image files of each image as soon as its batch is completed.

    Args:
        run_dir: The run directory. If it has records, the run is continued.
        images: Images to complete.
        limit: Number of images to complete, the first ones; None, or with `photos`, all.
        photos: The photos that `images` are crops of, if any.
        lpips_network: Network of `load_lpips`, to measure lpips.
        feature_network: Network of `load_efflite0`, to measure feature_distance and diversity, and
            to store the features for fd_efflite0.
        settings: Fingerprint of everything besides the images that affects the results.

    Raises:
        ValueError: If a network is given and the photos have holes of their own, so that there is
            no true image to compare with.
    """

    def __init__(
        self,
        run_dir: Path,
        images: ImageDataset,
        limit: int | None = None,
        photos: Photos | None = None,
        lpips_network: nn.Module | None = None,
        feature_network: EfficientNetLite | None = None,
        settings: str = "",
    ):
        super().__init__(write_interval="batch")
        self.run_dir, self.images, self.photos = run_dir, images, photos
        self.lpips_network, self.feature_network = lpips_network, feature_network
        self.settings = settings
        self.names = images.labels[: None if photos else limit]
        self.has_truth = photos is None or not photos.has_mask_image
        if not self.has_truth and (lpips_network or feature_network):
            raise ValueError(
                "lpips=, features=: there is no ground truth inside the photo's own hole. "
                "Remove these options"
            )
        self.fakes: dict[int, list[Tensor]] = {}  # of photos whose last crop is missing
        self.completed: set[int] = set()  # positions of the images that have a record
        self.find_records()

    def find_records(self) -> bool:
        """Find the records of all processes; return whether the record of every image exists."""
        missing = set(range(len(self.names))) - self.completed
        self.completed |= {i for i in missing if self._read(i) is not None}
        return len(self.completed) == len(self.names)

    def records(self) -> Iterator[Record]:
        """Read the records of all images in order.

        Raises:
            OSError: If a record cannot be read.
        """
        for i in range(len(self.names)):
            if (record := self._read(i)) is None:
                raise OSError(f"{self._path(i)}: the record cannot be read")
            yield record

    @property
    def main_result(self) -> Path:
        """Path of the main result: the grid of completions, or the completed photos."""
        if self.photos is None:
            return self.run_dir / "completed.png"
        is_single = len(set(self.photos.photo_index)) == 1
        return self.run_dir.joinpath("photos", *[f"{self.names[-1]}.png"] * is_single)

    def on_predict_batch_start(self, *_: object) -> None:
        self.start = time.perf_counter()

    def write_on_batch_end(
        self, trainer: Trainer, module: LightningModule, prediction: Completion, *_: object
    ) -> None:
        seconds = (time.perf_counter() - self.start) / len(prediction.index)
        metrics, features = self._evaluate(prediction)
        metrics["seconds"] = [seconds] * len(prediction.index)
        tensors = _record_tensors(prediction, features, with_fake=self.photos is not None)
        new: dict[int, Record] = {}
        for k, i in enumerate(prediction.index.tolist()):
            # All images of a batch are completed, even those that have a record.
            if i not in self.completed:
                values = {name: values[k] for name, values in metrics.items()}
                new[i] = Record(*self._identity(i), values, tensors[k])
                write_images(self.run_dir, i, new[i], self.photos, self.fakes, replace=True)
        with ThreadPoolExecutor() as pool:  # the disk flushes several files at once
            list(pool.map(write_record, map(self._path, new), new.values()))
        self.completed |= new.keys()

    def _path(self, i: int) -> Path:
        return self.run_dir / RECORDS / f"{i:05d}.safetensors"

    def _identity(self, i: int) -> tuple[str, str, str]:
        """Return the name, image checksum and settings that identify the record of image i."""
        value = zlib.crc32(self.images.images[i].tobytes())
        if self.photos is not None:
            value = zlib.crc32(self.photos.known[i].numpy().tobytes(), value)
        return self.names[i], f"{value:08x}", self.settings

    def _read(self, i: int) -> Record | None:
        record = read_record(self._path(i))
        if record and (record.name, record.image, record.settings) == self._identity(i):
            return record
        return None

    def _evaluate(self, result: Completion) -> tuple[dict[str, list[float]], Tensor | None]:
        """Evaluate a batch.

        PSNR (dB) and SSIM compare the completion with the image and, as raw_..., the content of
        the hole before blending. The losses are those at the end of the search.

        Returns:
            Each of `METRICS` but the run time, and the pooled features (B, 2, 1280) or None.
        """
        hole = 1 - result.mask  # (B, 1, S, S)
        nan = torch.full((len(hole),), math.nan, device=hole.device)
        metrics = dict.fromkeys(METRICS, nan)  # the order of the columns
        pooled = None
        if self.has_truth:
            metrics |= completion_metrics(result.completion, result.images, hole)
            raw = completion_metrics(result.fake, result.images, hole)
            metrics |= {f"raw_{name}": values for name, values in raw.items()}
        if self.lpips_network is not None:
            network = self.lpips_network.to(hole.device)
            metrics["lpips"] = lpips(result.completion, result.images, network)
        if self.feature_network is not None:
            features = self.feature_network.to(hole.device)
            distance, pooled = compare(result.completion, result.images, features)
            metrics["feature_distance"] = distance
            if isinstance(result, SearchedCompletion) and result.candidates.shape[1] > 1:
                metrics["diversity"] = diversity(result.candidates, features)
        if isinstance(result, SearchedCompletion):
            metrics |= zip(LOSSES, result.trace[-1].unbind(1), strict=True)
        return {name: values.tolist() for name, values in metrics.items()}, pooled


def _record_tensors(
    result: Completion, features: Tensor | None, with_fake: bool
) -> list[dict[str, Tensor]]:
    """Return the tensors of each image's `Record`."""
    images = {"completed": result.completion}
    grids = {"before": result.images, "masked": result.observed, "generated": result.fake}
    others = {} if features is None else {"features": features}
    if with_fake:
        others["fake"] = result.fake.float()
    if isinstance(result, SearchedCompletion):
        others |= {"z": result.z, "trace": result.trace.transpose(0, 1)}
        if result.candidates.shape[1] > 1:
            images["candidates"] = result.candidates
            if with_fake:
                others["fakes"] = result.fakes.float()
            grids["mean"] = result.candidates.mean(1)
            # White is a standard deviation of 0.5, a quarter of the range.
            grids["spread"] = result.spread / 0.25 - 1
        if len(result.frame_iterations) > 1:
            others["frame_z"] = result.frame_z.transpose(0, 1)
            frame_iterations = torch.tensor(result.frame_iterations)
            grids["frames"] = result.frames.transpose(0, 1)
    rows = []
    for k, i in enumerate(result.index.tolist()):
        shown = images | grids if i < GRID_IMAGES else images
        row = {name: to_uint8(values[k]) for name, values in shown.items()}
        row |= {name: values[k].detach().cpu() for name, values in others.items()}
        if "frames" in row:
            row["frame_iterations"] = frame_iterations
        rows.append({name: values.contiguous() for name, values in row.items()})
    return rows

"""Measure how often images are found to be far from the faces that a model was trained on.

python experiments/far_images.py --photos far/animals far/objects --portraits path/to/portraits
python experiments/far_images.py --data CelebA data=celeba data.root=path/to/celeba limit=500
python experiments/far_images.py --scores --photos far/animals --data CelebA data=celeba ...
python experiments/far_images.py --measure model.safetensors data=celeba data.root=path/to/celeba

Each directory of `--photos` holds images of one kind, which are cropped as inpaint.py crops photos.
`--portraits` is a directory with portraits.csv, see portraits.py; its rows are thirds by skin tone.
Each `--data` is a name for the table, and overrides that select images of a data set.  Overrides
before the options apply to all of them; the default is ckpt=celeba128.  The table has the share of
images with a warning, for a hole in the center and for a missing half.

`--scores` compares scores instead: the faces of the first --data, in two halves, with all photos.
`--measure` stores the mean and the standard deviation of the face scores in a checkpoint, which the
end of each epoch of a training does too.  It completes validation images with the mask `every`, as
in training, and changes nothing else in the file.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import CompletionRun, markdown_row
from hydra.utils import instantiate
from portraits import TONES, aligned_crops, all_known, thirds
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from dcgan_inpaint.data.batches import ImageDataset, make_dataloader
from dcgan_inpaint.data.directories import find_images
from dcgan_inpaint.data.skin_tone import skin_tone
from dcgan_inpaint.files import find_checkpoint
from dcgan_inpaint.inpainting.build import build, load_configured
from dcgan_inpaint.models.base import Model, gan_of
from dcgan_inpaint.models.checkpoint import save_weights
from dcgan_inpaint.models.networks import freeze
from dcgan_inpaint.photos.detector import face_scores
from dcgan_inpaint.photos.far_images import DEVIATIONS, find_far_images, measure_faces
from dcgan_inpaint.photos.photos import Photos, crop_finder

MASKS = ("center", "half")
BATCH_SIZE = 25
CALIBRATION_IMAGES = 128  # as in runs/callbacks.py
GRID, RIDGE = 8, 0.03  # cells per side of the color grid, and what is added to its variances


@dataclass
class ImageSet:
    """Images of one kind: name, images (N, C, S, S), known pixels, and which have no face."""

    name: str
    images: Any  # data set of batches
    known: Tensor  # (N, 1, S, S), 1 = known
    without_face: Tensor  # (N,) bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="overrides of inpaint.py")
    parser.add_argument("--photos", nargs="+", type=Path, default=[], help="directories of images")
    parser.add_argument("--portraits", type=Path, help="directory of the portraits")
    parser.add_argument(
        "--data",
        nargs="+",
        action="append",
        default=[],
        metavar=("NAME", "OVERRIDE"),
        help="name of a data set, and overrides of inpaint.py",
    )
    parser.add_argument("--scores", action="store_true", help="compare scores")
    parser.add_argument("--measure", metavar="CHECKPOINT", help="checkpoint to measure")
    args = parser.parse_args()
    if args.measure:
        measure(args.measure, args.overrides)
        return
    overrides = ["ckpt=celeba128", f"batch_size={BATCH_SIZE}", *args.overrides]
    model = load_configured(overrides)[1]
    sets = [read_data(name, [*overrides, *own]) for name, *own in args.data]
    sets += [
        read_photos(directory.name, find_images(str(directory)), model) for directory in args.photos
    ]
    if args.scores:
        compare_scores(sets[0], sets[1:], model, overrides)
        return
    if args.portraits:
        sets += read_portraits(args.portraits, model)
    header = ("images", "number", "no face found", *MASKS)
    print(f"{markdown_row(header)}\n{markdown_row(['---'] * len(header))}")
    for each in sets:
        far = [count_far(each, model, [*overrides, f"mask={mask}"]) for mask in MASKS]
        print(markdown_row([each.name, len(each.known), int(each.without_face.sum()), *far]))


def measure(checkpoint: str, overrides: Sequence[str]) -> None:
    """Store the face scores of validation images in a checkpoint; see the top of this file."""
    run = CompletionRun([f"ckpt={checkpoint}", "mask=every", "split=val", *overrides])
    model, path = run.model, find_checkpoint(checkpoint)
    if getattr(model, "face_scores", None) is None:
        raise SystemExit(
            f"--measure {checkpoint}: holds a {model.kind}. Use a one-pass network from a GAN"
        )
    model.mask = instantiate(run.config.mask)
    images = run.data.split("val")
    count = min(CALIBRATION_IMAGES, len(images))
    measure_faces(model, images.__getitems__(list(range(count)))["image"])
    before = load_file(path)
    save_weights(model, path, model.ema_only)
    after = load_file(path)
    same = {name for name in before if torch.equal(before[name], after[name])}
    statistics: Any = model.face_scores
    mean, deviation = statistics.tolist()
    threshold = mean - DEVIATIONS * deviation
    print(f"{path}: mean {mean:.3f}, standard deviation {deviation:.3f}, threshold {threshold:.3f}")
    print(f"changed or new tensors: {', '.join(after.keys() - same)}")


def read_photos(name: str, paths: Sequence[Path], model: Model) -> ImageSet:
    """Return the crops of photos, as inpaint.py crops them."""
    find = crop_finder(model.settings.crop, detector="auto", data=model.data)
    photos = Photos.from_files(paths, all_known, find, model.image_shape)
    without_face = torch.tensor([crop.without_face for crop in photos.crops])
    return ImageSet(name, photos.images, photos.known, without_face)


def read_portraits(root: Path, model: Model) -> Iterator[ImageSet]:
    """Yield the portraits of each third by skin tone."""
    with (root / "portraits.csv").open(newline="") as file:
        paths = [root / person["file"] for person in csv.DictReader(file)]
    groups = thirds(skin_tone(aligned_crops(paths)))
    for third, tone in enumerate(TONES):
        rows = [path for path, group in zip(paths, groups, strict=True) if group == third]
        yield read_photos(f"portraits: {tone}", rows, model)


def read_data(name: str, overrides: Sequence[str]) -> ImageSet:
    """Return images of a data set; pixels that are not valid are unknown."""
    run = CompletionRun(overrides)
    data, subset = run.data.split(run.config.split), run.subset(run.config.split)
    images = ImageDataset(data.images[: len(subset)], data.names[: len(subset)])
    valid = torch.ones(1, *images.images.shape[2:]) if data.valid is None else data.valid
    count = len(images)
    return ImageSet(
        name, images, valid.expand(count, -1, -1, -1), torch.zeros(count, dtype=torch.bool)
    )


def completions(each: ImageSet, overrides: Sequence[str]) -> Iterator[tuple[Any, Any]]:
    """Complete images; yield the module and each completed batch."""
    config, model = load_configured(overrides)
    draw = instantiate(config.mask)
    module = build(config, model, lambda index, size: each.known[index] * draw(index, size))
    for batch in make_dataloader(each.images, config.batch_size):
        yield module, module.predict_step(batch)


def count_far(each: ImageSet, model: Model, overrides: Sequence[str]) -> str:
    """Return the number of images that are far, and their share."""
    far = [find_far_images(model, *done) for done in completions(each, overrides)]
    total = sum(map(len, far))
    return f"{total} ({total / len(each.known):.0%})"


def compare_scores(
    faces: ImageSet, others: Sequence[ImageSet], model: Model, overrides: Sequence[str]
) -> None:
    """Print how well each score separates faces from other images.

    Statistics of a score are those of the first half of the faces.  Its threshold is DEVIATIONS
    standard deviations from their mean.
    """
    print(markdown_row(["score", "mask", "area under the curve", "faces", "other images"]))
    print(markdown_row(["---"] * 5))
    for mask in MASKS:
        here = [*overrides, f"mask={mask}"]
        rows = [list(completions(each, here)) for each in (faces, *others)]
        half = len(faces.known) // 2
        for name, columns in scores(rows, model, half).items():
            known, far = columns[0], torch.cat(columns[1:])
            fitted, held_out = known[:half], known[half:]
            threshold = fitted.mean() + DEVIATIONS * fitted.std()
            area = (held_out[:, None] < far).float().mean()
            shares = [f"{(values > threshold).float().mean():.0%}" for values in (held_out, far)]
            print(markdown_row([name, mask, f"{area:.3f}", *shares]))


@torch.no_grad()
def scores(rows: Sequence[Sequence[Any]], model: Model, half: int) -> dict[str, list[Tensor]]:
    """Return scores (N,) of each set of completions, larger for images that are farther.

    rows: the completed batches of each set, faces first; half: number of faces to fit to.
    """
    network: Any = model.latent_encoder()
    discriminator = freeze(gan_of(model).discriminator)
    values: dict[str, list[Tensor]] = {}
    colors, codes = [], []
    for batches in rows:
        done = [batch for _, batch in batches]
        images, mask, fake, completed = (
            torch.cat([getattr(batch, name) for batch in done])
            for name in ("images", "mask", "fake", "completion")
        )  # (N, C, S, S), (N, 1, S, S), ...
        pixels = mask.sum((1, 2, 3)) * images.shape[1]
        columns = {
            "detector, completion": -face_scores(completed),
            "detector, known pixels": -face_scores(images * mask),
            "error over known pixels": ((fake - images) * mask).abs().sum((1, 2, 3)) / pixels,
            "discriminator of the GAN": -discriminator(completed),
        }
        for name, column in columns.items():
            values.setdefault(name, []).append(column)
        codes.append(network.encoder(images * mask, mask))
        side = images.shape[-1] // GRID
        share = F.avg_pool2d(mask, side)  # (N, 1, GRID, GRID)
        color = F.avg_pool2d(images * mask, side) / share.clamp(min=1e-6)
        colors.append((color * (share > 0.5)).flatten(1))
    for name, features in (("code of the encoder", codes), ("colors of an 8 x 8 grid", colors)):
        fitted = features[0][:half].double()
        center, cov = fitted.mean(0), fitted.T.cov()
        inverse = torch.linalg.inv(cov + RIDGE * cov.diagonal().mean() * torch.eye(len(cov)))
        offsets = [x.double() - center for x in features]
        values[name] = [((x @ inverse) * x).mean(1) for x in offsets]
    return values


if __name__ == "__main__":
    main()

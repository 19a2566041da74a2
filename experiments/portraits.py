"""Evaluate completions of generated portraits by skin tone, sex and age.

python experiments/portraits.py --method search method=search batch_size=25
python experiments/portraits.py mask=half --method "one pass" --method unet ckpt=weights.safetensors
python experiments/portraits.py --sheets sheets --method "one pass" --method samples candidates=4
python experiments/portraits.py --tally sheets_key.json judgments.txt

`--root` is a directory of images with portraits.csv (file, sex, age).  Portraits are cropped as
inpaint.py crops photos.  The script accepts the overrides of inpaint.py: those before the options
apply to all methods, those after the name of a --method to this method.  The default checkpoint is
celeba128, and the default batch_size is 1.  It prints a table per method as Markdown.

`--sheets DIR` also writes the completions of all methods in random order, with numbers only, as
images DIR/sheet_01.png, ..., and DIR_key.json with what the numbers are.  `--tally` counts visual
judgments of them, a text file with one line per completion: number right|wrong [reason].
"""

import argparse
import csv
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import format_interval, markdown_row
from hydra.utils import instantiate
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.data.batches import make_dataloader
from dcgan_inpaint.data.skin_tone import FACE_CROP, FACE_SIZE, skin_tone
from dcgan_inpaint.errors import format_count
from dcgan_inpaint.images import to_uint8
from dcgan_inpaint.inpainting.build import build, load_configured
from dcgan_inpaint.metrics.completions import psnr
from dcgan_inpaint.metrics.features import compare, load_efflite0
from dcgan_inpaint.metrics.sets import frechet_distance
from dcgan_inpaint.photos.detector import find_faces
from dcgan_inpaint.photos.photos import Photos, crop_finder

PROJECT = Path(__file__).parents[1]
TONES = ("darkest third", "middle third", "lightest third")
AGES = ((18, 35), (36, 55), (56, 99))  # years, both ends included
EYE_TOLERANCE = 0.03  # distance of an eye from its true position / width of the face
HEADER = (
    *("group", "portraits", "PSNR, dB", "feature distance", "FD-EffLite0", "both eyes", "seconds"),
)
SHEET_COLUMNS, SHEET_ROWS, SHEET_SIZE, SHEET_LABEL = 5, 4, 256, 16  # faces, and px


@dataclass
class Evaluation:
    """Metrics of N completions."""

    psnr: Tensor  # (N,) dB over the hole
    distance: Tensor  # (N,) feature distance
    pooled: Tensor  # (N, 2, 1280) features of completion and truth
    eyes: Tensor  # (N,) whether both eyes are found in place; nan without a face in the truth
    seconds: Tensor  # (N,)
    images: Tensor  # (N, 3, S, S) uint8, the completions

    def cells(self, rows: Sequence[int]) -> list[str]:
        """Return the cells of a table for the portraits `rows`."""
        pooled, eyes = self.pooled[rows], self.eyes[rows]
        fd = f"{frechet_distance(pooled[:, 0], pooled[:, 1]):.1f}" if len(rows) > 1 else ""
        seen = eyes[~eyes.isnan()]
        return [
            format_interval(self.psnr[rows]),
            format_interval(self.distance[rows], 3),
            fd,
            f"{int(seen.sum())} of {len(seen)}",
            f"{self.seconds[rows].median():.3f}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("overrides", nargs="*", help="overrides of inpaint.py for all methods")
    parser.add_argument(
        "--root",
        type=Path,
        default=PROJECT.parent / "shared" / "portraits",
        help="directory of the portraits",
    )
    parser.add_argument("--limit", type=int, help="number of portraits; default: all")
    parser.add_argument(
        "--method",
        nargs="+",
        action="append",
        metavar=("NAME", "OVERRIDE"),
        help="name of a method, and overrides of inpaint.py; default: that of inpaint.py",
    )
    parser.add_argument("--sheets", type=Path, help="directory for sheets of completions")
    parser.add_argument(
        "--tally",
        type=Path,
        nargs=2,
        metavar=("KEY", "JUDGMENTS"),
        help="count judgments, then end",
    )
    args = parser.parse_args()
    if args.tally:
        try:
            print(tally(json.loads(args.tally[0].read_text()), args.tally[1].read_text()))
        except (ValueError, OSError) as error:
            sys.exit(f"error: --tally {args.tally[0]} {args.tally[1]}: {error}")
        return
    with (args.root / "portraits.csv").open(newline="") as file:
        people = list(csv.DictReader(file))[: args.limit]
    paths = [args.root / person["file"] for person in people]
    tones = np.array(TONES)[thirds(skin_tone(aligned_crops(paths)))].tolist()
    groups = group_rows(people, tones)
    evaluations = {}
    for name, *overrides in args.method or [["default"]]:
        common = ["ckpt=celeba128", "batch_size=1", *args.overrides]
        evaluations[name] = evaluate(paths, [*common, *overrides])
        print(f"\n**{name}**\n\n{markdown_row(HEADER)}\n{markdown_row(['---'] * len(HEADER))}")
        for group, rows in groups.items():
            print(markdown_row([group, len(rows), *evaluations[name].cells(rows)]), flush=True)
    if args.sheets:
        completions = {name: each.images for name, each in evaluations.items()}
        write_sheets(args.sheets, completions, [path.name for path in paths], tones)


def aligned_crops(paths: Sequence[Path]) -> np.ndarray:
    """Return the crops (N, 3, 128, 128), uint8, in which skin tone is measured."""
    find = crop_finder(FACE_CROP, detector="auto", data={"source": "celeba"})
    return Photos.from_files(paths, all_known, find, (3, FACE_SIZE, FACE_SIZE)).images.images


def all_known(index: Tensor, size: int) -> Tensor:
    """Return masks (B, 1, S, S) without a hole; a mask function."""
    return torch.ones(len(index), 1, size, size)


def thirds(values: np.ndarray) -> np.ndarray:
    """Return the third (N,) that each value belongs to: 0 for the smallest, 2 for the largest."""
    result = np.zeros(len(values), np.int64)
    # With 100 values the middle third has 34.
    count = len(values) // 3
    order = values.argsort(kind="stable")
    result[order[count:]] = 1
    result[order[len(values) - count :]] = 2
    return result


def group_rows(people: Sequence[Mapping[str, str]], tones: Sequence[str]) -> dict[str, list[int]]:
    """Return the rows of each group of people that has a member, by its name."""
    ages = [int(person["age"]) for person in people]
    groups = {"all": list(range(len(people)))}
    for tone in TONES:
        groups[f"skin tone: {tone}"] = [i for i, each in enumerate(tones) if each == tone]
    for sex in ("female", "male"):
        groups[sex] = [i for i, person in enumerate(people) if person["sex"] == sex]
    for low, high in AGES:
        groups[f"{low} to {high} years"] = [i for i, age in enumerate(ages) if low <= age <= high]
    return {name: rows for name, rows in groups.items() if rows}


def evaluate(paths: Sequence[Path], overrides: Sequence[str]) -> Evaluation:
    """Complete the portraits with overrides of inpaint.py.  The content outside a photo is hidden,
    but it is not part of the hole that is evaluated.
    """
    config, model = load_configured(overrides)
    share, eyes = model.settings.crop, config.eyes
    find = crop_finder(share, detector="auto", eyes=eyes, data=model.data)
    photos = Photos.from_files(paths, all_known, find, model.image_shape)
    draw = instantiate(config.mask)

    def mask(index: Tensor, size: int) -> Tensor:
        return photos.known[index] * draw(index, size)

    module = build(config, model, mask)
    module.check()
    completions, truth, holes, seconds = [], [], [], []
    for batch in make_dataloader(photos.images, config.batch_size):
        start = time.perf_counter()
        done = module.predict_step(batch)
        count = len(done.index)
        seconds += [(time.perf_counter() - start) / count] * count
        completions.append(done.completion.detach())
        truth.append(done.images)
        holes.append(photos.known[done.index] - done.mask)
    images, originals = torch.cat(completions), torch.cat(truth)  # (N, 3, S, S)
    distance, pooled = compare(images, originals, load_efflite0(images.shape[-1]))
    levels = to_uint8(images)
    in_place = [*map(eyes_in_place, levels, to_uint8(originals))]
    return Evaluation(
        psnr(images, originals, torch.cat(holes)),
        distance,
        pooled,
        torch.tensor(in_place),
        torch.tensor(seconds),
        levels,
    )


def eyes_in_place(completion: Tensor, truth: Tensor) -> float:
    """Return 1 if both eyes of a completion are detected where those of the true image are.

    It is 0 if an eye is elsewhere or no face is detected, and nan without a face in the true image.
    Images are uint8 (3, S, S).
    """
    true_faces, faces = (find_faces(to_pil_image(image), count=1) for image in (truth, completion))
    if not true_faces:
        return float("nan")
    if not faces:
        return 0.0
    true, face = true_faces[0], faces[0]
    errors = abs(face.left_eye - true.left_eye), abs(face.right_eye - true.right_eye)
    return float(max(errors) <= EYE_TOLERANCE * true.size)


def write_sheets(
    folder: Path, completions: Mapping[str, Tensor], names: Sequence[str], tones: Sequence[str]
) -> None:
    """Write numbered completions of all methods in random order, and a key next to the directory.

    Args:
        folder: Directory of the sheets.
        completions: Images (N, 3, S, S), uint8, by method.
        names: Names of the N portraits.
        tones: Skin tones of the N portraits, each one of TONES.
    """
    entries = [(method, i) for method in completions for i in range(len(names))]
    order = np.random.default_rng(0).permutation(len(entries)).tolist()
    folder.mkdir(parents=True, exist_ok=True)
    per_sheet, cell = SHEET_COLUMNS * SHEET_ROWS, SHEET_SIZE + SHEET_LABEL
    key = {}
    for first in range(0, len(order), per_sheet):
        sheet = Image.new("RGB", (SHEET_COLUMNS * SHEET_SIZE, SHEET_ROWS * cell), "white")
        drawing = ImageDraw.Draw(sheet)
        for place, entry in enumerate(order[first : first + per_sheet]):
            method, i = entries[entry]
            number = str(first + place + 1)
            key[number] = {"method": method, "portrait": names[i], "tone": tones[i]}
            x, y = place % SHEET_COLUMNS * SHEET_SIZE, place // SHEET_COLUMNS * cell
            face = to_pil_image(completions[method][i])
            size = (SHEET_SIZE, SHEET_SIZE)
            sheet.paste(face.resize(size, Image.Resampling.BICUBIC), (x, y + SHEET_LABEL))
            drawing.text((x + 4, y + 2), number, "black")
        sheet.save(folder / f"sheet_{first // per_sheet + 1:02d}.png")
    path = folder.with_name(f"{folder.name}_key.json")
    path.write_text(json.dumps(key, indent=1) + "\n")
    print(f"{folder}, {path}: {format_count(len(order), 'completion')}")


def tally(key: Mapping[str, Mapping[str, str]], text: str) -> str:
    """Return a table of the completions that look right, by method and skin tone.

    Args:
        key: The method and tone of each number, from `write_sheets`.
        text: Judgments, one per line: number right|wrong [reason].

    Raises:
        ValueError: If a line is invalid, or a number is unknown or judged twice.
    """
    right, judged, reasons = Counter[tuple[str, str]](), Counter[tuple[str, str]](), Counter[str]()
    numbers = set()
    for line in filter(str.strip, text.splitlines()):
        number, _, rest = line.strip().partition(" ")
        verdict, _, reason = rest.strip().partition(" ")
        if verdict not in ("right", "wrong"):
            raise ValueError(f"{line!r}: expected a line of: number right|wrong [reason]")
        if number not in key or number in numbers:
            problem = "unknown number" if number not in key else "judged twice"
            raise ValueError(f"{line!r}: {problem}. Use each number of the sheets once")
        numbers.add(number)
        entry = key[number]
        for tone in ("all", entry["tone"]):
            judged[entry["method"], tone] += 1
            right[entry["method"], tone] += verdict == "right"
        if verdict == "wrong":
            reasons[reason.strip() or "no reason given"] += 1
    columns = ("all", *TONES)
    lines = [markdown_row(["right", *columns]), markdown_row(["---"] * (1 + len(columns)))]
    for method in dict.fromkeys(entry["method"] for entry in key.values()):
        counts = [f"{right[method, tone]} of {judged[method, tone]}" for tone in columns]
        lines.append(markdown_row([method, *counts]))
    lines.append(f"\n{len(numbers)} of {format_count(len(key), 'completion')} judged")
    lines += [f"{count} wrong: {reason}" for reason, count in reasons.most_common()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

"""Faces of CelebA whose eyes are known, turned and scaled, in a large photo: are they found?

python experiments/detector.py path/to/celeba --count 200

Each of `count` images (178 x 218 px, aligned by the eyes) is rolled by up to --roll degrees,
scaled so that its eyes are 20 to 140 px apart, and pasted anywhere on one of the photos without a
face that come with scikit-image, 1,200 x 900 px.  The eye error is the mean over both eyes, in
parts of their distance; the square is that of `eyes=`, held against the papers' crop.
"""

import argparse
import csv
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dcgan_inpaint.photos.crops import EYES, Crop
from dcgan_inpaint.photos.detector import Face, find_faces

WIDTH, HEIGHT = 1200, 900
BACKGROUNDS = ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
LEFT, RIGHT = 69.5 + 111j, 108.5 + 111j  # the eyes of an aligned image
CROP, SIDE = 35 + 55j, 108  # and the papers' crop of it
CENTER = 89 + 109j
APART = (20, 140)  # px from eye to eye
COLUMNS = ("name", "apart", "roll", "first", "others", "eyes", "shift", "scale", "angle", "ms")


def backgrounds() -> list[Image.Image]:
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    found = []
    for name in BACKGROUNDS:
        with Image.open(folder / name) as image:
            times = max(WIDTH / image.width, HEIGHT / image.height)
            size = math.ceil(image.width * times), math.ceil(image.height * times)
            photo = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            found.append(photo.crop((0, 0, WIDTH, HEIGHT)))
    return found


def paste(photo: Image.Image, image: Image.Image, center: complex, turn: complex) -> Image.Image:
    """The image's point p is at center + turn·(p - CENTER) of the photo."""
    times = abs(turn)
    size = round(image.width * times), round(image.height * times)
    scaled = image.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    # from pixels of the photo to those of the scaled image
    back = times / turn
    start = CENTER * times - back * center
    rows = (back.real, -back.imag, start.real, back.imag, back.real, start.imag)
    kind = Image.Transform.AFFINE
    layer = scaled.transform(photo.size, kind, rows, Image.Resampling.BICUBIC)
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def measure(found: list[Face], to_photo: complex, center: complex) -> dict[str, float]:
    """Of the faces found, the largest first, where the image was pasted as in `paste`."""
    left, right, origin = (center + to_photo * (p - CENTER) for p in (LEFT, RIGHT, CROP))
    between, side = right - left, SIDE * to_photo
    there = [abs((f.left_eye + f.right_eye - left - right) / 2) < abs(between) / 2 for f in found]
    row = {"first": float(there[:1] == [True]), "others": float(len(there) - sum(there))}
    if not row["first"]:
        return row
    face = found[0]
    crop = Crop.from_eyes(face.left_eye, face.right_eye, EYES)
    middle = crop.origin + crop.side * (0.5 + 0.5j) - origin - side * (0.5 + 0.5j)
    return row | {
        "eyes": (abs(face.left_eye - left) + abs(face.right_eye - right)) / 2 / abs(between),
        "shift": abs(middle) / abs(side),
        "scale": abs(crop.side) / abs(side) - 1,
        "angle": float(np.degrees(np.angle(crop.side / side))),
    }


def summary(rows: Sequence[dict[str, float]]) -> str:
    found = [row for row in rows if row["first"]]
    values = {name: np.array([row[name] for row in found]) for name in COLUMNS[5:9]}
    return " | ".join(
        [
            f"{len(rows)}",
            f"{len(found) / len(rows):.1%}",
            f"{sum(row['others'] for row in rows):.0f}",
            f"{values['eyes'].mean():.3f}",
            f"{np.quantile(values['eyes'], 0.95):.3f}",
            f"{values['shift'].mean():.3f}",
            f"{np.abs(values['scale']).mean():.3f}",
            f"{np.abs(values['angle']).mean():.1f}",
            f"{np.median([row['ms'] for row in rows]):.0f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--roll", type=float, default=30, help="degrees, at most")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--out", type=Path, help="a row for each image, as CSV")
    args = parser.parse_args()
    torch.set_num_threads(1)
    number = {"val": "1", "test": "2"}[args.split]
    lines = (args.root / "list_eval_partition.txt").read_text().splitlines()
    names = [name for name, split in map(str.split, lines) if split == number]
    folder = args.root / "img_align_celeba"
    names = [name for name in names if (folder / name).is_file()]
    generator, photos, rows = np.random.default_rng(0), backgrounds(), []
    for i, name in enumerate(generator.permutation(names)[: args.count].tolist()):
        apart = math.exp(generator.uniform(*np.log(APART)))
        roll = generator.uniform(-args.roll, args.roll)
        turn = apart / abs(RIGHT - LEFT) * np.exp(1j * math.radians(roll))
        room = min(abs(turn) * abs(CENTER), HEIGHT / 2)  # so that all of it is in the photo
        center = complex(*(generator.uniform(room, side - room) for side in (WIDTH, HEIGHT)))
        with Image.open(folder / name) as image:
            photo = paste(photos[i % len(photos)], image.convert("RGB"), center, turn)
        since = time.perf_counter()
        found = find_faces(photo, 1)
        row = {"apart": apart, "roll": roll, "ms": (time.perf_counter() - since) * 1000}
        rows.append(row | measure(found, turn, center))
        if args.out:
            with args.out.open("a", newline="") as file:
                csv.writer(file).writerow([name, *(rows[-1].get(key, "") for key in COLUMNS[1:])])
    print("eyes apart, px | n | found | others | eyes | 95% | shift | scale | angle | ms")
    for low, high in ((20, 40), (40, 80), (80, 140), APART):
        of_size = [row for row in rows if low <= row["apart"] < high]
        if any(row["first"] for row in of_size):
            print(f"{low} to {high} | {summary(of_size)}")
    empty = sum(len(find_faces(photo)) for photo in photos)
    print(f"{empty} faces found in the {len(photos)} photos themselves")


if __name__ == "__main__":
    main()

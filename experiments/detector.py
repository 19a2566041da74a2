"""Measure how well the face detector finds rotated and scaled faces of CelebA in large photos.

python experiments/detector.py path/to/celeba --count 200

Each of `count` images (178 x 218 px, aligned by the eyes) is rotated by up to --roll degrees and
scaled so that its eyes are 20 to 140 px apart. Then it is pasted at a random position into one of
the photos without a face of scikit-image, 1,200 x 900 px. The eye error is the mean over both eyes,
as a share of their distance. The crop that follows from the eyes is compared with the papers' crop.
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

from dcgan_inpaint.errors import format_count
from dcgan_inpaint.photos.crops import EYES, Crop
from dcgan_inpaint.photos.detector import Face, find_faces

WIDTH, HEIGHT = 1200, 900
BACKGROUNDS = ("coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
LEFT, RIGHT = 69.5 + 111j, 108.5 + 111j  # eyes of an aligned image
CROP, SIDE = 35 + 55j, 108  # origin and side of the papers' crop of it
CENTER = 89 + 109j  # of an aligned image
EYE_DISTANCES = (20, 140)  # px
COLUMNS = ("name", "apart", "roll", "first", "others", "eyes", "shift", "scale", "angle", "ms")


def load_backgrounds() -> list[Image.Image]:
    """Return photos without a face, WIDTH x HEIGHT px."""
    import skimage.data

    folder = Path(skimage.data.__file__).parent
    photos = []
    for name in BACKGROUNDS:
        with Image.open(folder / name) as image:
            scale = max(WIDTH / image.width, HEIGHT / image.height)
            size = math.ceil(image.width * scale), math.ceil(image.height * scale)
            photo = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            photos.append(photo.crop((0, 0, WIDTH, HEIGHT)))
    return photos


def paste_image(
    photo: Image.Image, image: Image.Image, center: complex, turn: complex
) -> Image.Image:
    """Paste an image so that its point p lies at center + turn * (p - CENTER) of the photo."""
    scale = abs(turn)
    size = round(image.width * scale), round(image.height * scale)
    scaled = image.resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    # maps pixels of the photo to pixels of the scaled image
    inverse = scale / turn
    start = CENTER * scale - inverse * center
    rows = (inverse.real, -inverse.imag, start.real, inverse.imag, inverse.real, start.imag)
    kind = Image.Transform.AFFINE
    layer = scaled.transform(photo.size, kind, rows, Image.Resampling.BICUBIC)
    return Image.alpha_composite(photo.convert("RGBA"), layer).convert("RGB")


def evaluate(faces: list[Face], to_photo: complex, center: complex) -> dict[str, float]:
    """Evaluate the detected faces, in their order, of a photo made by `paste_image`."""
    left, right, origin = (center + to_photo * (p - CENTER) for p in (LEFT, RIGHT, CROP))
    distance, side = right - left, SIDE * to_photo
    hits = [
        abs((face.left_eye + face.right_eye - left - right) / 2) < abs(distance) / 2
        for face in faces
    ]
    row = {"first": float(hits[:1] == [True]), "others": float(len(hits) - sum(hits))}
    if not row["first"]:
        return row
    face = faces[0]
    crop = Crop.from_eyes(face.left_eye, face.right_eye, EYES)
    shift = crop.origin + crop.side * (0.5 + 0.5j) - origin - side * (0.5 + 0.5j)
    return row | {
        "eyes": (abs(face.left_eye - left) + abs(face.right_eye - right)) / 2 / abs(distance),
        "shift": abs(shift) / abs(side),
        "scale": abs(crop.side) / abs(side) - 1,
        "angle": float(np.degrees(np.angle(crop.side / side))),
    }


def summarize(rows: Sequence[dict[str, float]]) -> str:
    """Return one row of the table in experiments/detector.md."""
    detected = [row for row in rows if row["first"]]
    values = {name: np.array([row[name] for row in detected]) for name in COLUMNS[5:9]}
    return " | ".join(
        [
            f"{len(rows)}",
            f"{len(detected) / len(rows):.1%}",
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
    parser.add_argument("--roll", type=float, default=30, help="largest rotation in degrees")
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--out", type=Path, help="CSV file for one row per image")
    args = parser.parse_args()
    torch.set_num_threads(1)
    number = {"val": "1", "test": "2"}[args.split]
    lines = (args.root / "list_eval_partition.txt").read_text().splitlines()
    names = [name for name, split in map(str.split, lines) if split == number]
    folder = args.root / "img_align_celeba"
    names = [name for name in names if (folder / name).is_file()]
    generator, photos, rows = np.random.default_rng(0), load_backgrounds(), []
    for i, name in enumerate(generator.permutation(names)[: args.count].tolist()):
        distance = math.exp(generator.uniform(*np.log(EYE_DISTANCES)))
        roll = generator.uniform(-args.roll, args.roll)
        turn = distance / abs(RIGHT - LEFT) * np.exp(1j * math.radians(roll))
        margin = min(abs(turn) * abs(CENTER), HEIGHT / 2)  # the image lies inside the photo
        center = complex(*(generator.uniform(margin, side - margin) for side in (WIDTH, HEIGHT)))
        with Image.open(folder / name) as image:
            photo = paste_image(photos[i % len(photos)], image.convert("RGB"), center, turn)
        start = time.perf_counter()
        faces = find_faces(photo)
        row = {"apart": distance, "roll": roll, "ms": (time.perf_counter() - start) * 1000}
        rows.append(row | evaluate(faces, turn, center))
        if args.out:
            with args.out.open("a", newline="") as file:
                csv.writer(file).writerow([name, *(rows[-1].get(key, "") for key in COLUMNS[1:])])
    print("eyes apart, px | n | found | others | eyes | 95% | shift | scale | angle | ms")
    for low, high in ((20, 40), (40, 80), (80, 140), EYE_DISTANCES):
        of_size = [row for row in rows if low <= row["apart"] < high]
        if any(row["first"] for row in of_size):
            print(f"{low} to {high} | {summarize(of_size)}")
    empty = sum(len(find_faces(photo)) for photo in photos)
    photos_without = format_count(len(photos), "photo")
    print(f"{format_count(empty, 'face')} detected in {photos_without} without a face")


if __name__ == "__main__":
    main()

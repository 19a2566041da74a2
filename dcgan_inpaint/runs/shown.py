"""What a completion run shows, made of the records of its images; see records.py.

Every file is whole or absent, and may be deleted: the next run with the same output makes it again.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.files import atomic_write, save_image, write_csv
from dcgan_inpaint.images import grid, save_gif
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.runs.records import Kept

LOSSES = ("context", "prior", "total")
GRIDS = ("before", "masked", "generated", "completed", "mean", "spread")
END = b"IEND\xaeB`\x82"  # of a PNG file: its last part, and the checksum of that
ARRAYS = {"z": "z", "frame_z": "z_frames", "features": "features"}  # what is kept: its file


def show_image(folder: Path, name: str, i: int, kept: Kept, photos: Photos | None) -> None:
    """The files of image i alone, of those that are not there and whole.

    completed/; photos/: the hole's new pixels put back into the full-size photo that was cropped,
    where several crops are of one, all together with the last; candidates/: where there are
    several, all of them, the best first.
    """
    _mend(folder / "completed" / f"{name}.png", lambda: to_pil_image(kept["completed"]))
    if photos is not None and (fakes := photos.together(i, kept["fake"])):
        full = partial(photos.completed, i, kept["fake"], fakes)
        _mend(folder / "photos" / f"{name}.png", full)
    if "candidates" in kept:
        _mend(folder / "candidates" / f"{name}.png", lambda: grid(kept["candidates"]))


def forget_image(folder: Path, name: str) -> None:
    """Remove the files of an image that is completed once more."""
    for room in ("completed", "photos", "candidates"):
        (folder / room / f"{name}.png").unlink(missing_ok=True)


def show_all(folder: Path, names: Sequence[str], records: Iterable[Kept]) -> None:
    """The files of all images together, from their records in order.

    The grids of GRIDS, frames/ and search.gif: the first 64, the latter when frames were kept;
    rows.png: the first 8, original above masked above completed; trace.csv: (iteration, context,
    prior, total) per image; z.npy (N, z_dim), z_frames.npy (N, F, z_dim), and features.npy
    (N, 2, 1280) of completions and true images.
    """
    first: list[Kept] = []
    traces: list[Tensor] = []
    arrays: dict[str, list[Tensor]] = {name: [] for name in ARRAYS}
    for kept in records:
        if "before" in kept:
            first.append(kept)
        if "trace" in kept:
            traces.append(kept["trace"])
        for name in ARRAYS.keys() & kept.keys():
            arrays[name].append(kept[name])
    _show_grids(folder, first)
    for name, values in arrays.items():
        if values:
            with atomic_write(folder / f"{ARRAYS[name]}.npy") as file:
                np.save(file, torch.stack(values).numpy())
    if traces:
        rows = (
            [name, t, *losses]
            for name, trace in zip(names, traces, strict=True)
            for t, losses in enumerate(trace.tolist())
        )
        write_csv(folder / "trace.csv", [["name", "iteration", *LOSSES], *rows])


def _show_grids(folder: Path, first: list[Kept]) -> None:
    for name in GRIDS:
        if name in first[0]:
            save_image(folder / f"{name}.png", grid(torch.stack([kept[name] for kept in first])))
    rows = [kept[name] for name in ("before", "masked", "completed") for kept in first[:8]]
    save_image(folder / "rows.png", grid(torch.stack(rows), columns=len(first[:8])))
    if "frames" in first[0]:
        frames = [grid(each) for each in torch.stack([kept["frames"] for kept in first], 1)]
        for t, frame in zip(first[0]["frame_iterations"].tolist(), frames, strict=True):
            save_image(folder / "frames" / f"{t:05d}.png", frame)
        with atomic_write(folder / "search.gif") as file:
            save_gif(frames, file)


def _mend(path: Path, make: Callable[[], Image.Image]) -> None:
    """Make an image file, if it is not there and whole."""
    if not _is_whole(path):
        save_image(path, make())


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path, formats=["PNG"]) as image:
            image.verify()  # each part has a checksum
        return path.read_bytes().endswith(END)  # and nothing follows
    except (OSError, SyntaxError):  # what PIL raises on broken files
        return False

"""What is kept of a completed batch, one small writer per kind of file.

A writer takes the run's folder, the names of the batch's pictures and the batch, and adds to what
earlier batches left there.  Of a search there is more to keep: see SEARCHED.
"""

import csv
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dcgan_inpaint.completion.result import Completion, SearchedCompletion
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.pictures import grid, place, save_gif, to_pil

LOSSES = ("context", "prior", "total")
SHOWN = 64  # pictures in the grids, the first of the list


def write_pictures(folder: Path, names: list[str], done: Completion) -> None:
    """completed/: one file per picture."""
    (folder / "completed").mkdir(exist_ok=True)
    for name, completion in zip(names, done.completion, strict=True):
        to_pil(completion).save(folder / "completed" / f"{name}.png")


def write_photos(photos: Photos, folder: Path, names: list[str], done: Completion) -> None:
    """photos/: the hole's new pixels put back into the full-size photos that were cropped."""
    (folder / "photos").mkdir(exist_ok=True)
    for name, i, fake in zip(names, done.index.tolist(), done.fake, strict=True):
        photos.completed(i, fake).save(folder / "photos" / f"{name}.png")


def write_grids(folder: Path, names: list[str], done: Completion) -> None:
    """before, masked, generated, completed.png: the first 64; rows.png: the first 8, original above
    masked above completed."""
    shown, cells = _shown(done)
    stages = {
        "before": done.images[shown],
        "masked": done.observed[shown],
        "generated": done.fake[shown],
        "completed": done.completion[shown],
    }
    for name, pictures in stages.items():
        place(folder / f"{name}.png", pictures, cells)
    for row, name in enumerate(("before", "masked", "completed")):
        first = [(row, column) for above, column in cells if above == 0]
        place(folder / "rows.png", stages[name][: len(first)], first)


def write_candidates(folder: Path, names: list[str], done: SearchedCompletion) -> None:
    """candidates/: where a picture has several, all of them, the best first; mean.png and
    spread.png over them: the first 64."""
    if done.candidates.shape[1] == 1:
        return
    (folder / "candidates").mkdir(exist_ok=True)
    for name, candidates in zip(names, done.candidates, strict=True):
        grid(candidates).save(folder / "candidates" / f"{name}.png")
    shown, cells = _shown(done)
    if not cells:
        return
    some = done.candidates[shown]  # (B, K, C, S, S)
    # a standard deviation of 0.5, a quarter of the range, is white
    spread = done.spread[shown] / 0.25 - 1  # (B, 1, S, S)
    place(folder / "mean.png", some.mean(1), cells)
    place(folder / "spread.png", spread.expand_as(some[:, 0]), cells)


def write_trace(folder: Path, names: list[str], done: SearchedCompletion) -> None:
    """trace.csv: (iteration, context, prior, total) per picture."""
    if not (folder / "trace.csv").exists():
        write_csv(folder / "trace.csv", [["name", "iteration", *LOSSES]])
    traces = done.trace.transpose(0, 1).tolist()  # (B, T + 1, 3)
    rows = (
        [name, t, *losses]
        for name, trace in zip(names, traces, strict=True)
        for t, losses in enumerate(trace)
    )
    write_csv(folder / "trace.csv", rows, mode="a")


def write_z(folder: Path, names: list[str], done: SearchedCompletion) -> None:
    """z.npy (N, z_dim) and, when frames were kept, z_frames.npy (N, F, z_dim)."""
    append(folder / "z.npy", done.z)
    if len(done.frame_iterations) > 1:
        append(folder / "z_frames.npy", done.frame_z.transpose(0, 1))  # (B, F, z_dim)


def write_frames(folder: Path, names: list[str], done: SearchedCompletion) -> None:
    """frames/ and search.gif, when frames were kept: the first 64 as the search went."""
    shown, cells = _shown(done)
    if len(done.frame_iterations) < 2 or not cells:
        return
    (folder / "frames").mkdir(exist_ok=True)
    files = [folder / "frames" / f"{t:05d}.png" for t in done.frame_iterations]
    for file, frame in zip(files, done.frames[:, shown], strict=True):
        place(file, frame, cells)
    save_gif([Image.open(file) for file in files], folder / "search.gif")


SEARCHED: tuple[Callable[[Path, list[str], SearchedCompletion], None], ...] = (
    write_candidates,
    write_trace,
    write_z,
    write_frames,
)


def drop_unfinished(folder: Path, finished: Sequence[str]) -> None:
    """Take from trace.csv and the arrays what a killed run left of an unfinished batch."""
    if (folder / "trace.csv").is_file():
        with (folder / "trace.csv").open(newline="") as file:
            kept = (row for row in csv.reader(file) if row[0] in {"name", *finished})
            write_csv(folder / "trace.csv", kept)
    for path in [*folder.glob("z*.npy"), *folder.glob("features.npy")]:
        _save(path, np.load(path)[: len(finished)])


def write_csv(path: Path, rows: Iterable[Sequence], mode: str = "w") -> None:
    """Rows of a CSV file; a whole file is in place at once or not at all."""
    target = path if mode == "a" else path.with_suffix(".part")
    with target.open(mode, newline="") as file:
        csv.writer(file).writerows(rows)
    target.replace(path)


def append(path: Path, rows: Tensor) -> None:
    """Add rows (B, ...) to the array of a file, if there is one already."""
    before = [np.load(path)] if path.exists() else []
    _save(path, np.concatenate([*before, rows.cpu().numpy()]))


def _save(path: Path, array: np.ndarray) -> None:
    """np.save, whole or not at all."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, array)
    os.replace(part, path)


def _shown(done: Completion) -> tuple[Tensor, list[tuple[int, int]]]:
    """Which of the batch (B,) the grids show, and their cells: row, column."""
    shown = done.index < SHOWN
    return shown, [(i // 8, i % 8) for i in done.index[shown].tolist()]

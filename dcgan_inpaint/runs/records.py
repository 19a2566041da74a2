"""The record of a completed image: one file, whole or absent, of all that is kept of it.

What a run shows is made of its records (shown.py) and can be made again; they alone are trusted.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from dcgan_inpaint.checksums import CHECKSUM, checksum
from dcgan_inpaint.files import atomic_write
from dcgan_inpaint.images import to_uint8
from dcgan_inpaint.inpainting.module import Completion, SearchedCompletion

ROOM = "records"  # the folder of records in a run's
SHOWN = 64  # images in the grids, the first of the list
Kept = dict[str, Tensor]


def kept_of(done: Completion, fakes: bool) -> list[Kept]:
    """What is kept of each image of a batch, images as uint8 (C, S, S).

    completed; `fakes`: fake, float, which is put back into a photo; of a search z, trace (T + 1, 3)
    and, where there are several, candidates (K, C, S, S) and frame_z (F, z_dim).  Of the first 64
    what the grids show as well: before, masked, generated; mean and spread of candidates; frames
    (F, C, S, S) of the iterations frame_iterations (F,).
    """
    batch = {"completed": to_uint8(done.completion)}
    if fakes:
        batch["fake"] = done.fake.float()
    of_grids = {}
    if (shown := done.index < SHOWN).any():
        of_grids["before"] = to_uint8(done.images)
        of_grids["masked"] = to_uint8(done.observed)
        of_grids["generated"] = to_uint8(done.fake)
    if isinstance(done, SearchedCompletion):
        batch |= {"z": done.z, "trace": done.trace.transpose(0, 1)}
        if done.candidates.shape[1] > 1:
            batch["candidates"] = to_uint8(done.candidates)
            if shown.any():
                of_grids["mean"] = to_uint8(done.candidates.mean(1))
                # a standard deviation of 0.5, a quarter of the range, is white
                of_grids["spread"] = to_uint8(done.spread / 0.25 - 1)
        if (count := len(done.frame_iterations)) > 1:
            batch["frame_z"] = done.frame_z.transpose(0, 1)
            if shown.any():
                of_grids["frames"] = to_uint8(done.frames.transpose(0, 1))
                iterations = torch.tensor(done.frame_iterations)
                of_grids["frame_iterations"] = iterations.expand(len(shown), count)
    batch, of_grids = ({k: v.detach().cpu() for k, v in part.items()} for part in (batch, of_grids))
    parts = (batch | of_grids if in_grids else batch for in_grids in shown.tolist())
    return [
        {name: values[i].contiguous() for name, values in part.items()}
        for i, part in enumerate(parts)
    ]


def write_record(path: Path, kept: Kept, about: Mapping[str, str]) -> None:
    """Put a record on the disk, whole or not at all; `about` says whose it is."""
    data = save(kept, {**about, CHECKSUM: checksum(kept, about)})
    with atomic_write(path, durable=True) as file:
        file.write(data)


def read_record(path: Path) -> tuple[Kept, dict[str, str]] | None:
    """What `write_record` was given; None when that is not there, or not what was written."""
    try:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata() or {})
            kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    said = about.pop(CHECKSUM, None)
    return (kept, about) if said == checksum(kept, about) else None


def begun_with(folder: Path) -> str | None:
    """The settings that a run's records name; None if there is no whole one."""
    for path in sorted((folder / ROOM).glob("*.safetensors")):
        if found := read_record(path):
            return found[1].get("settings")
    return None

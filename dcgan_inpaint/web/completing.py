"""One photo completed for a page: what it sees on the way, and what can be had of it later."""

import base64
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from dcgan_inpaint.api import Completer
from dcgan_inpaint.images import to_pil
from dcgan_inpaint.inpainting.module import Progress, SearchedCompletion
from dcgan_inpaint.photos.result import Result
from dcgan_inpaint.web.queue import Say, Stopped
from dcgan_inpaint.web.uploads import decoded

LEVELS = 127.5  # of 255 in 1, where white - black is 2
PAUSE = 0.1  # seconds between two frames: an eye wants no more, and each costs a blend


@dataclass(frozen=True)
class Wanted:
    """What a page asks for: its files as they came, not yet decoded."""

    photo: bytes
    mask: bytes  # an image of the photo's shape: white is known, black the hole
    square: Sequence[int]  # x, y, w, h in px of the upright photo
    candidates: int


class Completed:
    """A photo's candidates, each made at full size when it is asked for."""

    def __init__(self, result: Result):
        assert isinstance(result.done, SearchedCompletion)  # `complete` watches a search
        self.result, self.done, self.row = result, result.done, result.row
        self.index = int(result.done.index[result.row])
        self.size = result.photos.photo(self.index).size

    def image(self, which: str) -> Image.Image:
        """Candidate "0", "1", ... or "mean", in the photo; or "mask": white is known.

        Raises LookupError for another.
        """
        if which == "mask":
            hole = self.result.photos.hole(self.index, self.size).numpy()  # (H, W) bool
            return Image.fromarray(~hole).convert("L")
        fakes = self.done.fakes[self.row]  # (K, C, S, S)
        names = {str(k): fake for k, fake in enumerate(fakes)}
        fake = fakes.mean(0) if which == "mean" else names[which]
        return self.result.photos.completed(self.index, fake)

    def shown(self) -> dict[str, Any]:
        """All candidates, their mean and their spread at the model's size, to choose from."""
        candidates = self.done.candidates[self.row]  # (K, C, S, S)
        shown: dict[str, Any] = {
            "candidates": [data_url(to_pil(each)) for each in candidates],
            "totals": self.done.trace[:, self.row, 2].tolist(),
        }
        if (spread := self.result.spread) is not None:  # (S, S); white - black is 2
            shown["mean"] = data_url(to_pil(candidates.mean(0)))
            shown["spread"] = data_url(heat(spread))
            shown["widest"] = spread.max().item() * LEVELS
        if (error := self.result.predicted_error) is not None:
            hole = self.done.mask[self.row, 0].cpu() == 0
            shown["error"] = error[hole].square().mean().sqrt().item() * LEVELS
        return shown


class Kept:
    """What was completed, by a name that nobody can guess, until it is forgotten.

    In memory alone, and only of the last photos: at most `pixels` in all, but always the last one.
    """

    def __init__(self, pixels: int):
        self.pixels = pixels
        self.lock = threading.Lock()
        self.all: OrderedDict[str, Completed] = OrderedDict()

    def keep(self, completed: Completed) -> str:
        name = secrets.token_urlsafe(16)
        with self.lock:
            self.all[name] = completed
            while len(self.all) > 1 and sum(map(_pixels, self.all.values())) > self.pixels:
                self.all.popitem(last=False)
        return name

    def forget(self, name: str) -> None:
        with self.lock:
            self.all.pop(name, None)


def _pixels(completed: Completed) -> int:
    return completed.size[0] * completed.size[1]


def complete(completer: Completer, wanted: Wanted, pixels: int, kept: Kept, say: Say) -> None:
    """Complete a photo of at most so many `pixels`, and say what happens.

    "frame": what the search has come to, some ten times a second; "done": what there is to choose
    from, and its name among what is kept.  Raises ValueError, one line, for what does not fit.
    """
    photo = _named("photo", wanted.photo, pixels)
    mask = _named("mask", wanted.mask, pixels).convert("L")
    totals: list[float] = []  # since the last frame
    shown_at = float("-inf")

    def watch(progress: Progress) -> None:
        nonlocal shown_at
        totals.append(progress.losses[0, 2].item())
        if time.monotonic() - shown_at < PAUSE:
            return
        frame = {
            "iteration": progress.iteration,
            "iterations": progress.iterations,
            "totals": totals[:],
            "image": data_url(to_pil(progress.show()[0])),
        }
        totals.clear()
        shown_at = time.monotonic()
        say("frame", frame)  # here the search ends when the page is closed

    result = completer(photo, mask, wanted.square, wanted.candidates, watch=watch)
    completed = Completed(result)
    name = kept.keep(completed)
    try:
        say("done", completed.shown() | {"name": name})
    except Stopped:
        kept.forget(name)  # nobody is left to ask for it
        raise


def _named(name: str, file: bytes, pixels: int) -> Image.Image:
    try:
        return decoded(file, pixels)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def heat(spread: Tensor) -> Image.Image:
    """(S, S) from 0 to its largest, as black, red, yellow, white."""
    share = (spread / spread.max().clamp(min=1e-6)).numpy()[..., None] * 3  # (S, S, 1)
    return Image.fromarray(((share - np.arange(3)).clip(0, 1) * 255).round().astype(np.uint8))


def png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", compress_level=2)  # a large photo takes seconds at PIL's 6
    return file.getvalue()


def data_url(image: Image.Image) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"

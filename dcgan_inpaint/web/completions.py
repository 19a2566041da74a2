"""Storage of completions in memory, and encoding of their images for the web page."""

import base64
import secrets
from io import BytesIO
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dcgan_inpaint.files import PNG_LEVEL
from dcgan_inpaint.images import to_pil
from dcgan_inpaint.inpainting.module import SearchedCompletion
from dcgan_inpaint.photos.result import Result

GRAY_LEVELS = 127.5  # gray levels (0 to 255) per unit of the range [-1, 1]


class StoredCompletion:
    """Candidates of one photo; each full-size image is made on request.

    Args:
        result: Result of a completion. Without a search it may be the only candidate. Of several
            faces, it is that of the last one; candidate k has candidate k of each face.
    """

    def __init__(self, result: Result):
        self.result, self.faces = result, result.faces
        width, height = result.photos.photo(result.index).size
        self.pixels = width * height

    def image(self, name: str) -> Image.Image:
        """Return a full-size image.

        Args:
            name: "0", "1", ... for a candidate pasted into the photo, "mean" for the mean of the
                candidates, or "mask" for the mask (white = known).

        Raises:
            LookupError: If there is no such image.
        """
        if name == "mask":
            return Image.fromarray(~self.result.hole.numpy()).convert("L")
        fakes = {face.index: face.fakes for face in self.faces}  # (K, C, S, S) each
        if name == "mean":
            return self.result.photos.complete({i: fake.mean(0) for i, fake in fakes.items()})
        if name not in map(str, range(len(self.result.fakes))):
            raise LookupError(name)
        return self.result.photos.complete({i: fake[int(name)] for i, fake in fakes.items()})

    def summary(self) -> dict[str, Any]:
        """Return the candidates, their mean and their spread at the model's size as JSON data.

        F faces are side by side, and the objective is that of the first one, as in the frames.
        """
        faces = sorted(self.faces, key=lambda face: face.crop.origin.real)  # as in the photo
        candidates = torch.cat([_candidates(face) for face in faces], 3)  # (K, C, S, F * S)
        trace = self.faces[0].trace  # (T + 1, 3)
        summary: dict[str, Any] = {
            "candidates": [data_url(to_pil(candidate)) for candidate in candidates],
            "totals": [] if trace is None else trace[:, 2].tolist(),
            "is_far": self.result.is_far,
        }
        spreads = [face.spread for face in faces if face.spread is not None]  # (S, S) each
        if spreads:
            spread = torch.cat(spreads, 1)  # (S, F * S)
            summary["mean"] = data_url(to_pil(candidates.mean(0)))
            summary["spread"] = data_url(heat_map(spread))
            summary["max_spread"] = spread.max().item() * GRAY_LEVELS
        errors = [
            face.predicted_error[face.batch.mask[face.row, 0].cpu() == 0]  # (pixels of the hole,)
            for face in faces
            if face.predicted_error is not None
        ]
        if errors:
            error = torch.cat(errors).square().mean().sqrt()
            summary["predicted_error"] = error.item() * GRAY_LEVELS
        return summary


def _candidates(result: Result) -> Tensor:
    """Return the completions (K, C, S, S) of a face: all candidates, or the only one."""
    if isinstance(result.batch, SearchedCompletion):
        return result.batch.candidates[result.row]
    return result.batch.completion[result.row, None]


class CompletionStore(dict[str, StoredCompletion]):
    """Stores completions in memory under unguessable identifiers.

    Args:
        max_pixels: Maximum total size of the photos. The oldest completions are removed when it
            is exceeded; the newest completion always stays.
    """

    def __init__(self, max_pixels: int):
        super().__init__()
        self.max_pixels = max_pixels

    def add(self, completion: StoredCompletion) -> str:
        """Store a completion and return its identifier."""
        identifier = secrets.token_urlsafe(16)
        self[identifier] = completion
        completions = list(self.items())  # a copy: another thread may remove completions meanwhile
        pixels = sum(stored.pixels for _, stored in completions)
        for old_identifier, old in completions[:-1]:
            if pixels > self.max_pixels:
                self.pop(old_identifier, None)
                pixels -= old.pixels
        return identifier


def heat_map(values: Tensor) -> Image.Image:
    """Map (S, S) values from 0 to their maximum to black, red, yellow and white."""
    shares = (values / values.max().clamp(min=1e-6)).numpy()[..., None] * 3  # (S, S, 1)
    return Image.fromarray(((shares - np.arange(3)).clip(0, 1) * 255).round().astype(np.uint8))


def encode_png(image: Image.Image) -> bytes:
    """Return the content of a PNG file."""
    buffer = BytesIO()
    image.save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def data_url(image: Image.Image) -> str:
    """Return an image as a data URL of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(encode_png(image)).decode()}"

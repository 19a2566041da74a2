"""Result of completing an image from Python."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.errors import format_count
from dcgan_inpaint.images import to_float, to_pil
from dcgan_inpaint.inpainting.module import Completion, SearchedCompletion
from dcgan_inpaint.metrics.completions import completion_metrics
from dcgan_inpaint.photos.crops import Crop, draw_crops
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.photos.reading import ImageLike, to_photo

RENAMED_ATTRIBUTES = {"picture": "image", "expected_error": "predicted_error"}


@dataclass(frozen=True, eq=False)
class Result:
    """A completed image of W x H px.

    With face="all" there is one result per face: the last one, and through `previous` all others.
    Images and metrics of a result include the faces before it.

    Args:
        photos: The full-size images.
        batch: The batch that contains the completion, at the size S of the model.
        row: The row of the completion in the batch.
        seconds: Run time of the completion: the share of each image in that of its batch.
        previous: The result of the previous face of the same image.
        is_far: Whether the image is far from the faces that the model was trained on, so that the
            completion may be wrong (photos/far_images.py); of several faces, whether any is.
    """

    photos: Photos
    batch: Completion
    row: int
    seconds: float
    previous: "Result | None" = None
    is_far: bool = False

    def __repr__(self) -> str:
        width, height = self.photos.photo(self.index).size
        samples = format_count(len(self.fakes), "sample")
        return f"Result({width} x {height} px, {samples}, {self.seconds:.1f} s)"

    def _repr_png_(self) -> bytes | None:
        """Return `image` as PNG, which a notebook shows."""
        return self.image._repr_png_()

    def __getattr__(self, name: str) -> Any:
        """Raise AttributeError; for an attribute of version 0.2 the message has the new name."""
        if new := RENAMED_ATTRIBUTES.get(name):
            raise AttributeError(f"result.{name}: was renamed. Use result.{new}")
        raise AttributeError(f"result has no attribute {name!r}")

    @cached_property
    def image(self) -> Image.Image:
        """The completed image, W x H px, "RGB" or "L".

        Pixels outside the hole are bitwise equal to the upright input in 8-bit sRGB, with
        transparency on white.
        """
        return self.photos.complete({face.index: face.batch.fake[face.row] for face in self.faces})

    @cached_property
    def candidates(self) -> list[Image.Image]:
        """The K candidates as images like `image`, the best first, or samples in their order.

        Baselines return only `image`.
        """
        return [
            self.photos.complete({face.index: face.fakes[k] for face in self.faces})
            for k in range(len(self.fakes))
        ]

    @property
    def crop(self) -> Crop:
        """The square of the image that was completed: around a face, the center, or as given."""
        return self.photos.crops[self.index]

    @cached_property
    def crop_preview(self) -> Image.Image:
        """The image before its completion, with the outline of `crop` and of previous faces."""
        return draw_crops(self.photos.photo(self.index), [face.crop for face in self.faces])

    @property
    def fake(self) -> Image.Image:
        """The S x S image that fills the hole, before blending; G(z) in a search."""
        return to_pil(self.batch.fake[self.row])

    @property
    def spread(self) -> Tensor | None:
        """Standard deviation (S, S) of the candidates, averaged over channels.

        The difference of white and black is 2. None for fewer than two candidates.
        """
        if isinstance(self.batch, SearchedCompletion) and self.batch.candidates.shape[1] > 1:
            return self.batch.spread[self.row, 0].cpu()
        return None

    @property
    def predicted_error(self) -> Tensor | None:
        """Predicted error (S, S) of the mean of the candidates, a root mean square over channels.

        It is 0 at known pixels; the difference of white and black is 2. It depends on the model:

        - `celeba128`, `celeba64`, other one-pass networks from a GAN, and latent encoders that
          sample: an estimate from the spread of at least two samples, calibrated on images that the
          model was not trained on (models/uncertainty.py). None for one sample.
        - `faces64` and other models without such an encoder, a search with start=random, U-Nets,
          context encoders and baselines: None, because no spread was calibrated.
        """
        if isinstance(self.batch, SearchedCompletion) and self.batch.predicted_error is not None:
            return self.batch.predicted_error[self.row, 0].cpu()
        return None

    @property
    def trace(self) -> Tensor | None:
        """Losses (T + 1, 3) of the best candidate: context, prior and total.

        One row for each of T iterations and one at the end. None for baselines.
        """
        if isinstance(self.batch, SearchedCompletion):
            return self.batch.trace[:, self.row].cpu()
        return None

    def metrics(self, truth: ImageLike) -> dict[str, float]:
        """Compare `image` with the true image at full size.

        Args:
            truth: The true image, W x H px, of any type that Completer takes.

        Returns:
            psnr_hole and psnr_whole (dB), ssim_hole and ssim_whole (Wang 2004); nan without a hole.

        Raises:
            ValueError: If `truth` is not an image or has a different size.
        """
        image, original = self.image, to_photo(truth, "truth")
        if original.size != image.size:
            raise ValueError(
                f"truth: the size is {original.width} x {original.height} px. "
                f"Use an image of {image.width} x {image.height} px"
            )
        completed, expected = (
            to_float(pil_to_tensor(each.convert(image.mode)).numpy())[None]
            for each in (image, original)
        )  # (1, C, H, W) each
        hole = self.hole[None, None].float()  # (1, 1, H, W)
        values = completion_metrics(completed, expected, hole)  # (1,) each
        return {name: value.item() for name, value in values.items()}

    @property
    def faces(self) -> list["Result"]:
        """The results of the previous faces of the image, and this one."""
        return [*(self.previous.faces if self.previous else ()), self]

    @property
    def fakes(self) -> Tensor:
        """What fills the hole of this face in each of the K candidates (K, C, S, S)."""
        if isinstance(self.batch, SearchedCompletion):
            return self.batch.fakes[self.row]
        return self.batch.fake[self.row, None]

    @property
    def index(self) -> int:
        """Index of the crop."""
        return int(self.batch.index[self.row])

    @property
    def hole(self) -> Tensor:
        """The hole of the image (H, W), bool, with those of the previous faces."""
        size = self.photos.photo(self.index).size
        return torch.stack([self.photos.hole(face.index, size) for face in self.faces]).any(0)

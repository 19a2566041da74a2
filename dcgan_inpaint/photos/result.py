"""A completed image, back at full size: what Completer (api.py) gives."""

from dataclasses import dataclass
from functools import cached_property

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.images import to_float, to_pil
from dcgan_inpaint.inpainting.module import Completion, SearchedCompletion
from dcgan_inpaint.metrics.completions import completion_metrics
from dcgan_inpaint.photos.photos import Photos
from dcgan_inpaint.photos.reading import Given, photo_of


@dataclass(frozen=True, eq=False)
class Result:
    """One completed image of W x H px.

    `done` is the batch that it was completed in, and `row` its place there: tensors at the model's
    size S, in [-1, 1] (completion/result.py).  With face="all" that is the last of its faces, and
    `before` is the result of the face before it: `image` and `candidates` have their holes
    completed as well, and `metrics` are over all of them.
    """

    photos: Photos
    done: Completion
    row: int
    before: "Result | None" = None

    @cached_property
    def image(self) -> Image.Image:
        """The completed image, W x H px, "RGB" or "L".

        Outside the hole it is to the bit what was given: upright, in 8 bit, transparency on white.
        """
        return self._pasted(self.done.fake[self.row])

    @cached_property
    def candidates(self) -> list[Image.Image]:
        """K images like `image`, of each candidate: the best first, or draws in their order.

        Of a method without a search it is the image alone.
        """
        if isinstance(self.done, SearchedCompletion):
            return [self._pasted(fake) for fake in self.done.fakes[self.row]]
        return [self.image]

    @property
    def fake(self) -> Image.Image:
        """What the hole was filled from, S x S px: G(z) of the square at the end of a search."""
        return to_pil(self.done.fake[self.row])

    @property
    def spread(self) -> Tensor | None:
        """(S, S) the standard deviation over the candidates, the mean of channels; white - black
        is 2.  None of fewer than two candidates."""
        if isinstance(self.done, SearchedCompletion) and self.done.candidates.shape[1] > 1:
            return self.done.spread[self.row, 0].cpu()
        return None

    @property
    def predicted_error(self) -> Tensor | None:
        """(S, S) how far the candidates' mean may be from the truth, a root mean square over
        channels, 0 where pixels are known; white - black is 2.  As measured on images that a
        sampler was not trained on (models/doubt.py); None of candidates that are not its draws."""
        if isinstance(self.done, SearchedCompletion) and self.done.predicted_error is not None:
            return self.done.predicted_error[self.row, 0].cpu()
        return None

    @property
    def trace(self) -> Tensor | None:
        """(T + 1, 3) context, prior, total of the best candidate at T iterations and at the end.

        None of a method without a search.
        """
        if isinstance(self.done, SearchedCompletion):
            return self.done.trace[:, self.row].cpu()
        return None

    def metrics(self, truth: Given) -> dict[str, float]:
        """How near `image` is to the true one, at full size, by name.

        psnr_hole and psnr_whole (dB), ssim_hole and ssim_whole (Wang 2004); nan of no hole.
        Raises ValueError for a truth that is no image, or of another size.
        """
        image, true = self.image, photo_of(truth, "truth")
        if true.size != image.size:
            sizes = [f"{one.width} x {one.height} px" for one in (true, image)]
            raise ValueError(f"truth is {sizes[0]}, the image {sizes[1]}")
        completed, original = (
            to_float(pil_to_tensor(one.convert(image.mode)).numpy())[None] for one in (image, true)
        )  # (1, C, H, W) each
        holes = [self.photos.hole(i, image.size) for i in (*self._others, self._index)]
        hole = torch.stack(holes).any(0)[None, None].float()  # (1, 1, H, W)
        return {
            name: value.item()
            for name, value in completion_metrics(completed, original, hole).items()
        }

    @property
    def _index(self) -> int:
        return int(self.done.index[self.row])

    @property
    def _others(self) -> dict[int, Tensor]:
        """The fakes of the faces before it, by crop."""
        if self.before is None:
            return {}
        return self.before._others | {self.before._index: self.before.done.fake[self.before.row]}

    def _pasted(self, fake: Tensor) -> Image.Image:
        return self.photos.completed(self._index, fake, self._others)

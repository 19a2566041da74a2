"""What completing a batch gives, at its end and on the way; runs/records.py writes the former."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass
class Completion:
    """One completed batch, whatever filled it.  Images (B, C, S, S) are in [-1, 1]."""

    index: Tensor  # (B,) position of each image in its list
    images: Tensor  # the true images
    mask: Tensor  # (B, 1, S, S), 1 = known
    observed: Tensor  # what was known, to look at: the image with its hole in grey
    fake: Tensor  # what the hole was filled from: G(z) at the end of a search
    completion: Tensor  # the blended result


@dataclass
class SearchedCompletion(Completion):
    """One batch completed by a search for z, of T iterations and F kept frames.

    Of K candidates the completion is the one with the lowest objective, the first, or the mean.
    """

    z: Tensor  # (B, z_dim), where stages in feature maps started
    trace: Tensor  # (T + 1, B, 3) context, prior, total as evaluated, and at the end
    candidates: Tensor  # (B, K, C, S, S) all completions, the best first; draws in their order
    fakes: Tensor  # (B, K, C, S, S) what each of them was filled from
    frames: Tensor  # (F, B, C, S, S) the completion as the search went
    frame_z: Tensor  # (F, B, z_dim) the z of each frame
    frame_iterations: list[int]  # (F,) the iteration of each frame
    # (B, 1, S, S) how far the mean of K >= 2 draws may be off, as measured; see models/doubt.py
    predicted_error: Tensor | None = None

    @property
    def spread(self) -> Tensor:
        """(B, 1, S, S) the standard deviation over two or more candidates, the mean of channels."""
        return self.candidates.std(1).mean(1, keepdim=True)


@dataclass
class Progress:
    """The search of a batch after an evaluation, for who watches it: good until the next one."""

    index: Tensor  # (B,) position of each image in its list
    iteration: int  # from 0, where it starts
    iterations: int  # where it ends
    losses: Tensor  # (B, 3) context, prior, total of what would now be the best candidate
    show: Callable[[], Tensor]  # makes (B, C, S, S) in [-1, 1], the completion as it would now be

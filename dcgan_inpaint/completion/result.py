"""What completing a batch gives; runs/records.py writes it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Completion:
    """One completed batch, whatever filled it.  Pictures (B, C, S, S) are in [-1, 1]."""

    index: Tensor  # (B,) position of each picture in its list
    images: Tensor  # the true pictures
    mask: Tensor  # (B, 1, S, S), 1 = known
    observed: Tensor  # what was known, to look at: the picture with its hole in grey
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
    frames: Tensor  # (F, B, C, S, S) the completion as the search went
    frame_z: Tensor  # (F, B, z_dim) the z of each frame
    frame_iterations: list[int]  # (F,) the iteration of each frame

"""Detection of images that are far from the faces that a model was trained on.

A one-pass network of faces completes an aligned face to a face, and the face detector sees one in
nearly all completions of validation images.  It is less confident for the completion of a drawing,
an animal or an object.  A completion depends on the known pixels only, so the hole has no
influence.

The mean and the standard deviation of the confidence over validation images are part of the
checkpoint.  A model whose completions show no faces, or whose file has no such values, finds no
image far.  experiments/far_images.md compares other scores.
"""

from typing import Any

import torch
from torch import Tensor

from dcgan_inpaint.blending import poisson
from dcgan_inpaint.inpainting.module import Completion
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.photos.detector import CANDIDATE_LOGIT, face_scores

# Standard deviations below the mean of validation images.  It is the smallest multiple of 0.25 that
# warns of at most 2% of the validation faces of CelebA and UTKFace (experiments/far_images.md).
DEVIATIONS = 2.25
FAR_IMAGE = "looks unlike the faces that the model was trained on; the completion may be wrong"


@torch.no_grad()
def measure_faces(model: Model, images: Tensor, batch_size: int = 32) -> None:
    """Store mean and standard deviation of the face scores of completions in a model.

    The masks are those of the training.  A model without the buffer `face_scores` stays as it is.

    Args:
        model: The trained model, with its training masks.
        images: (B, C, S, S) in [-1, 1], not trained on; two at least.
        batch_size: Number of images that are completed at once, which limits the memory.
    """
    fill, buffer = model.fill(), getattr(model, "face_scores", None)
    if fill is None or buffer is None or len(images) < 2:
        return
    scores = []
    for index in torch.arange(len(images), device=model.device).split(batch_size):
        batch = images[index.cpu()].to(model.device)  # (b, C, S, S)
        mask = model.training_masks(-1 - index)  # (b, 1, S, S); training has indices from 0
        scores.append(face_scores(poisson(fill(batch * mask, mask), batch, mask)))
    values = torch.cat(scores)  # (B,)
    buffer.copy_(torch.stack([values.mean(), values.std()]))


def find_far_images(model: Model, module: Any, batch: Completion) -> list[int]:
    """Return the indices of the images of a completed batch that are far from training images.

    The list is empty for a search and for baselines, whose completions were not measured.

    Args:
        model: The model.
        module: The module that completed the batch.
        batch: The completed batch.
    """
    mean, deviation = getattr(model, "face_scores", torch.zeros(2)).tolist()
    threshold = mean - DEVIATIONS * deviation
    one_pass = getattr(module, "completes_in_one_pass", False)
    if threshold <= CANDIDATE_LOGIT or not one_pass:
        return []
    return batch.index.cpu()[face_scores(batch.completion) < threshold].tolist()

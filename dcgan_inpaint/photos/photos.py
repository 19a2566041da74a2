"""Full-size photos: find the square to complete, crop it, and paste the completion back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from hydra.utils import instantiate
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.configs import CropBox, EyePositions, FaceChoice
from dcgan_inpaint.data.batches import ImageDataset
from dcgan_inpaint.data.directories import find_images
from dcgan_inpaint.errors import show
from dcgan_inpaint.masks.mask_image import MaskImage, MaskImages
from dcgan_inpaint.masks.masks import MaskFunction
from dcgan_inpaint.models.base import Model
from dcgan_inpaint.photos.crops import (
    Crop,
    crop_hole,
    crop_image,
    eye_positions,
    paste_back,
    sample_image,
)
from dcgan_inpaint.photos.detector import Face, find_faces
from dcgan_inpaint.photos.holes import assign_holes, check_hole_inside, is_in_middle
from dcgan_inpaint.photos.reading import open_photo
from dcgan_inpaint.schemas import InpaintConfig

PORTRAITS = Path(__file__).parents[1] / "portraits"  # 24 generated portraits, see its README.md


class CropFinder(Protocol):
    """Finds the crops of a photo."""

    def __call__(self, photo: Image.Image, name: str, hole: Tensor | None = None, /) -> list[Crop]:
        """Return the crops of a photo, at least one.

        Args:
            photo: The upright photo.
            name: Its name in messages.
            hole: The hole (H, W), bool, if the mask is an image that covers the complete photo.
        """


def crop_finder(
    share: float,
    crop: CropBox | None = None,
    detector: Literal["auto"] | None = None,
    eyes: EyePositions | None = None,
    face: FaceChoice | None = None,
    data: Mapping[str, Any] | None = None,
) -> CropFinder:
    """Return a function that finds the crops of a photo.

    Args:
        share: Side of the central crop of the training images, as a share of the shorter side.
        crop: The square to use, [x, y, width, height] in pixels of the upright photo.
        detector: "auto" to detect faces, or None for the central square.
        eyes: Positions of the eyes in the crop. None: as in the training images.
        face: 1 for the most prominent face (`Face.prominence`), 2 for the next, ..., or "all" for
            one crop per face.  None: "all" for a photo with a mask image, 1 otherwise.
        data: The description of the training images, from the checkpoint.

    Returns:
        The function. For a photo without a face it returns the central crop, which says so. It
        raises ValueError if the crop does not fit the photo, or if the requested face is missing.

    Raises:
        ValueError: If `face` is combined with a crop or without a detector.
    """
    if face is not None and (crop is not None or detector is None):
        conflict = "detector=null" if crop is None else "crop="
        raise ValueError(f"face={face}: selects a detected face. Remove {conflict}")
    if crop is not None:
        return lambda photo, *_: [Crop.from_box(crop, photo)]
    if detector is None:
        return lambda photo, *_: [Crop.central(photo, share)]
    positions = eyes or eye_positions(data, share)

    def crop_face(face: Face) -> Crop:
        return Crop.from_eyes(face.left_eye, face.right_eye, positions)

    def find_crops(photo: Image.Image, name: str, hole: Tensor | None = None, /) -> list[Crop]:
        number = 1 if face is None else face
        faces = find_faces(photo, count=None if number == "all" else number)
        selected = faces if number == "all" else faces[number - 1 : number]
        if not selected and number not in (1, "all"):
            raise ValueError(
                f"face={face}: the number of detected faces is {len(faces)}. Set crop=[x,y,w,h]"
            )
        if not selected:
            return [replace(Crop.central(photo, share), without_face=True)]
        if face is None and hole is not None and not is_in_middle(hole, crop_face(selected[0])):
            # All faces take ten times as long to detect as the first one.
            selected = find_faces(photo, count=None)
        return [*map(crop_face, selected)]

    return find_crops


class Photos:
    """Full-size photos and their crops at the size of a model.

    Photos are reopened whenever they are needed. Only their crops and masks stay in memory.

    A mask image with the aspect ratio of the photo, to 1 px, covers the complete photo and is
    cropped with it. Any other mask covers each crop. Pixels outside the photo are unknown.

    If a photo has several crops, each hole of its mask image is assigned to one of them (see
    :func:`assign_holes`), and crops without a hole are dropped.

    Args:
        names: The names of the photos.
        get_photo: Returns the upright photo i, "L" or "RGB".
        masks: The mask of each photo.
        find_crops: Finds the crops of a photo.
        image_shape: (C, S, S) of the model.
        skip_failures: Whether photos that cannot be completed are left out.

    Attributes:
        images: The N crops, with the names of their photos.
        known: Their masks (N, 1, S, S), 1 = known.
        crops: Their squares.
        photo_index: The index of the photo of each crop.
        has_mask_image: Whether a mask is an image; the true content of its hole is unknown.
        failures: With `skip_failures`, why photos cannot be completed; one line for each.

    Raises:
        ValueError: If a photo cannot be read, has no crop, or has a hole outside its crops. The
            message names the photo. With `skip_failures`, if this is so for all photos.
    """

    def __init__(
        self,
        names: Sequence[str],
        get_photo: Callable[[int], Image.Image],
        masks: Sequence[MaskFunction],
        find_crops: CropFinder,
        image_shape: tuple[int, int, int],
        skip_failures: bool = False,
    ):
        self._get_photo, self.masks = get_photo, masks
        self.has_mask_image = isinstance(masks, MaskImages) or any(
            isinstance(mask, MaskImage) for mask in masks
        )
        self.crops: list[Crop] = []
        self.photo_index: list[int] = []
        self.failures: list[str] = []
        images: list[np.ndarray] = []
        known: list[Tensor] = []
        for number, name in enumerate(names):
            first = len(self.crops)
            try:
                crops_and_masks = self._read(number, name, find_crops, image_shape)
            except ValueError as error:
                if not skip_failures:
                    raise
                del self.crops[first:], self.photo_index[first:]
                self.failures.append(" ".join(str(error).split()))
            else:
                images += crops_and_masks[0]
                known += crops_and_masks[1]
        if not images:
            raise ValueError(self.failures[0])
        self.images = ImageDataset(np.stack(images), [names[number] for number in self.photo_index])
        self.known = torch.cat(known)  # (N, 1, S, S)

    def _read(
        self, number: int, name: str, find_crops: CropFinder, image_shape: tuple[int, int, int]
    ) -> tuple[list[np.ndarray], list[Tensor]]:
        """Add the crops of a photo; return their images (C, S, S) and masks (1, 1, S, S)."""
        channels, size, _ = image_shape
        photo = self._get_photo(number)
        try:
            mask = self.masks[number]
            crops = find_crops(photo, name, _photo_hole(mask, photo.size))
            if len(crops) > 1 and (holes := _photo_holes(mask, photo.size, crops)):
                crops = [each for each, hole in zip(crops, holes, strict=True) if hole.any()]
            first = len(self.crops)
            self.crops += crops
            self.photo_index += [number] * len(crops)
            known = [self._crop_mask(i, photo, size) for i in range(first, len(self.crops))]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        photo = photo.convert("RGB" if channels == 3 else "L")
        return [pil_to_tensor(crop_image(photo, crop, size)).numpy() for crop in crops], known

    @classmethod
    def from_files(
        cls,
        paths: Sequence[Path],
        mask: MaskFunction | MaskImages,
        find_crops: CropFinder,
        image_shape: tuple[int, int, int],
    ) -> "Photos":
        """Open photos from files, with one mask for all or the mask image of the same name.

        Photos that cannot be completed are listed in `failures`.
        """
        masks = mask.for_photos(paths) if isinstance(mask, MaskImages) else [mask] * len(paths)
        names = [*map(str, paths)]
        return cls(names, lambda i: open_photo(paths[i]), masks, find_crops, image_shape, True)

    def mask(self, index: Tensor, size: int) -> Tensor:
        """Return the masks (B, 1, S, S) of the crops `index` (B,); a mask function."""
        return self.known[index.cpu()].to(index.device)

    def photo(self, i: int) -> Image.Image:
        """Open the upright photo that crop i belongs to."""
        return self._get_photo(self.photo_index[i])

    @property
    def missing_faces(self) -> dict[int, str]:
        """One line about each photo without a face, by the index of its crop."""
        return {
            i: f"{self.images.names[i]}: no face found: completing the center {crop}"
            for i, crop in enumerate(self.crops)
            if crop.without_face
        }

    def crops_with(self, i: int) -> list[int]:
        """Return the indices of all crops of the photo that crop i belongs to."""
        return [k for k, number in enumerate(self.photo_index) if number == self.photo_index[i]]

    def complete(self, fakes: Mapping[int, Tensor]) -> Image.Image:
        """Return a full-size photo whose holes are filled from its crops.

        Args:
            fakes: G(z) (C, S, S) in [-1, 1] by the index of the crop. All crops belong to the same
                photo; the holes of its other crops stay as they are.
        """
        photo = self.photo(next(iter(fakes)))
        for i, fake in fakes.items():
            photo = paste_back(photo, self.crops[i], fake, self.hole(i, photo.size).numpy())
        return photo

    def hole(self, i: int, size: tuple[int, int]) -> Tensor:
        """Return the hole (H, W), bool, that crop i fills in its photo of size (W, H)."""
        crop, mask = self.crops[i], self.masks[self.photo_index[i]]
        crops = self.crops_with(i)
        holes = _photo_holes(mask, size, [self.crops[k] for k in crops])
        if holes is not None:
            return holes[crops.index(i)]
        known = self.known[i]  # (1, S, S)
        if isinstance(mask, MaskImage):  # its resolution can be higher than that of the model
            known = mask(torch.tensor([i]), max(1, round(abs(crop.side))))[0]
        return sample_image(1 - known, crop.unit_points((0, 0, *size)), "nearest", "zeros")[0] > 0.5

    def _crop_mask(self, i: int, photo: Image.Image, size: int) -> Tensor:
        """Return the mask (1, 1, S, S) of crop i.

        Raises:
            ValueError: If the crop cannot be completed with it.
        """
        crop, mask = self.crops[i], self.masks[self.photo_index[i]]
        white = crop_image(Image.new("L", photo.size, 255), crop, size, is_mask=True)
        inside = (pil_to_tensor(white)[None] > 127.5).float()  # (1, 1, S, S)
        if isinstance(mask, MaskImage) and mask.covers(*photo.size):
            check_hole_inside(mask, self.hole(i, photo.size), crop)
            if mask.threshold is None:
                known = 1 - crop_hole(mask.hole(*photo.size), crop, size).float()[None, None]
            else:
                levels = crop_image(mask.resized(*photo.size), crop, size, is_mask=True)
                known = mask.threshold_levels(pil_to_tensor(levels))[None]
            mask.check(known, f"at {size} px in the crop {crop}")
            return inside * known
        return inside * mask(torch.tensor([i]), size)


def _photo_hole(mask: MaskFunction, size: tuple[int, int]) -> Tensor | None:
    """Return the hole (H, W), bool, of a photo of size (W, H).

    None if the mask does not cover the complete photo.
    """
    if isinstance(mask, MaskImage) and mask.covers(*size):
        return mask.hole(*size)
    return None


def _photo_holes(
    mask: MaskFunction, size: tuple[int, int], crops: Sequence[Crop]
) -> list[Tensor] | None:
    """Return the hole (H, W), bool, of each crop of a photo of size (W, H).

    None if the mask does not cover the complete photo.
    """
    if (hole := _photo_hole(mask, size)) is None:
        return None
    assert isinstance(mask, MaskImage)
    return [hole] if len(crops) == 1 else assign_holes(hole, crops, mask.name)


def load_photos(config: InpaintConfig, model: Model) -> Photos | None:
    """Return the photos that `images` names, at full size; None if it names none.

    Raises ValueError for an option of photos without `images`, and as `Photos` does.
    """
    if config.images is None:
        for key, default in (("crop", None), ("detector", "auto"), ("face", None)):
            if (value := getattr(config, key)) != default:
                raise ValueError(f"{key}={show(value)}: applies to photos only. Set images=")
        return None
    find = crop_finder(
        model.settings.crop, config.crop, config.detector, config.eyes, config.face, model.data
    )
    paths = find_images(config.images)[: config.limit]
    return Photos.from_files(paths, instantiate(config.mask), find, model.image_shape)

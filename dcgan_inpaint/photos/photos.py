"""Photos at full size: a square region is completed at the model's size and put back seamlessly.

Only pixels of the hole ever change.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor, to_pil_image

from dcgan_inpaint.blending import harmonic
from dcgan_inpaint.data.loader import Images
from dcgan_inpaint.images import LUMA
from dcgan_inpaint.masks.mask_image import MaskImage
from dcgan_inpaint.photos.crops import Region, RegionFinder, pixel_centers
from dcgan_inpaint.photos.holes import share_out


def _sample(images: Tensor, unit: Tensor, mode: str, padding: str) -> Tensor:
    """Values (C, h, w) of an image (C, H, W) at points u + iv (h, w) of its unit square."""
    grid = torch.view_as_real(unit) * 2 - 1
    return F.grid_sample(images[None], grid[None], mode, padding, align_corners=False)[0]


def crop(photo: Image.Image, region: Region, size: int, mask: bool = False) -> Image.Image:
    """The region at size x size px, antialiased.

    Outside the photo its border continues; of a mask (255 = white), nothing is known there, and
    pixels are means of the pixels they cover.
    """
    x, y, side = region.origin.real, region.origin.imag, region.side.real
    inside = min(x, y) >= 0 and x + side <= photo.width and y + side <= photo.height
    resample = Image.Resampling.BOX if mask else Image.Resampling.BICUBIC
    if region.side.imag == 0 and side > 0 and inside:
        # as the training images were (data/images.py), to the bit
        return photo.resize((size, size), resample, box=(x, y, x + side, y + side))
    length = max(1, round(abs(region.side)))
    at = region.origin + region.side / length * pixel_centers((0, 0, length, length))
    unit = torch.complex(at.real / photo.width, at.imag / photo.height)
    padding = "zeros" if mask else "border"
    upright = _to_photo(_sample(pil_to_tensor(photo).float(), unit, "bicubic", padding))
    return upright.resize((size, size), resample)


def _to_photo(image: Tensor) -> Image.Image:
    """An image, "L" or "RGB", of float (1 or 3, H, W) in [0, 255]."""
    return to_pil_image(image.clamp(0, 255).round().to(torch.uint8))


def paste_back(photo: Image.Image, region: Region, fake: Tensor, hole: np.ndarray) -> Image.Image:
    """The photo with the gradients of G(z) in the hole, at full size (Perez 2003).

    fake (C, S, S) in [-1, 1] covers the region and is enlarged; hole (H, W) bool.  The hole meets
    the pixels around it without a seam; every other pixel is the photo's own, to the bit.
    """
    if not hole.any():
        return photo
    rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
    # the hole's bounding box and a ring of one pixel, as far as the photo goes
    left, right = max(columns[0] - 1, 0), min(columns[-1] + 2, photo.width)
    top, bottom = max(rows[0] - 1, 0), min(rows[-1] + 2, photo.height)
    hole = np.ascontiguousarray(hole[top:bottom, left:right])
    known = pil_to_tensor(photo.crop((left, top, right, bottom))).float()  # (C', h, w)
    fake = (fake.detach().float().cpu() + 1) * 127.5
    if len(fake) > len(known):
        fake = (fake * torch.tensor(LUMA).view(3, 1, 1)).sum(0, keepdim=True)
    unit = region.unit((left, top, right, bottom))
    fake = _sample(fake, unit, "bicubic", "border").expand_as(known)
    # to 0.05 of 255 levels
    correction = harmonic((known - fake)[None], torch.from_numpy(hole)[None, None], 0.05)[0]
    blended = _to_photo(fake + correction)
    result = photo.copy()
    result.paste(blended, (left, top), Image.fromarray(hole))
    return result


class Photos:
    """Photos to complete: the crops to search for, their masks, and the way back to full size.

    `photo(i)` gives the upright photo `names[i]`, "L" or "RGB", whenever it is needed: only the
    crops are kept here.  `draws` are their masks (masks.py), each on its region.  But a MaskImage
    with the aspect ratio of the photo, to 1 px, lies on the whole photo and is cropped along with
    it: its area means are thresholded, at the size of the photo and at that of the model.  Pixels
    outside the photo are unknown.

    `find_regions` gives the regions of an upright photo, whose name it is given as well: one, or
    several, which are crops of their own.  Of these, those are kept that a hole of the MaskImage
    lies in, and each completes its holes alone (holes.py).  image_shape (C, S, S) is the model's.
    Raises ValueError, naming the photo, for one that has no region, or has a hole that its region
    does not contain, and what `photo` raises.
    """

    def __init__(
        self,
        names: Sequence[str],
        photo: Callable[[int], Image.Image],
        draws: Sequence[Callable[[Tensor, int], Tensor]],
        find_regions: RegionFinder,
        image_shape: tuple[int, int, int],
    ):
        self._photo, self.draws = photo, draws
        self.own_holes = any(isinstance(draw, MaskImage) for draw in draws)
        self.regions: list[Region] = []  # of each crop
        self.of: list[int] = []  # and the photo that it is of
        self.waiting: dict[int, dict[int, Tensor]] = {}  # see `together`
        channels, size, _ = image_shape
        crops, known = [], []
        for number, name in enumerate(names):
            upright = photo(number)
            first = len(self.regions)
            try:
                regions = self._with_holes(number, upright, find_regions(upright, name))
                self.regions += regions
                self.of += [number] * len(regions)
                known += [self._known(i, upright, size) for i in range(first, len(self.of))]
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
            upright = upright.convert("RGB" if channels == 3 else "L")
            crops += [pil_to_tensor(crop(upright, region, size)).numpy() for region in regions]
        self.images = Images(np.stack(crops), [names[number] for number in self.of])
        self.known = torch.cat(known)  # (N, 1, S, S)

    def mask(self, index: Tensor, size: int) -> Tensor:
        """(B, 1, S, S), 1 = known: a mask function like those of masks.py, for the crops."""
        return self.known[index.cpu()].to(index.device)

    def photo(self, i: int) -> Image.Image:
        """The upright photo that crop i is of."""
        return self._photo(self.of[i])

    def together(self, i: int, fake: Tensor) -> dict[int, Tensor]:
        """The fakes of all crops of a photo, by crop, when i is the last and all have been given.

        Else nothing: the photo is to wait.
        """
        given = self.waiting.setdefault(self.of[i], {})
        given[i] = fake
        crops = self._crops(i)
        if i < crops[-1] or len(given) < len(crops):
            return {}
        return self.waiting.pop(self.of[i])

    def completed(
        self, i: int, fake: Tensor, others: Mapping[int, Tensor] | None = None
    ) -> Image.Image:
        """The photo of crop i at full size, its hole completed by fake (C, S, S) in [-1, 1].

        `others` are the fakes of other crops of the photo, which complete theirs.
        """
        photo = self.photo(i)
        for each, filling in {**(others or {}), i: fake}.items():
            hole = self.hole(each, photo.size).numpy()
            photo = paste_back(photo, self.regions[each], filling, hole)
        return photo

    def hole(self, i: int, size: tuple[int, int]) -> Tensor:
        """What crop i completes (H, W), bool, of its photo, which is `size` (W, H)."""
        region, draw = self.regions[i], self.draws[self.of[i]]
        if isinstance(draw, MaskImage) and (levels := draw.over(*size)):
            hole = draw.known_at(pil_to_tensor(levels))[0] == 0
            if len(crops := self._crops(i)) > 1:
                owner = share_out(hole, [self.regions[each] for each in crops], draw.name)
                return torch.from_numpy(owner == crops.index(i))
            return hole
        # a mask image is sharper than the model; what is drawn has the model's pixels
        mask = self.known[i]
        if isinstance(draw, MaskImage):
            mask = draw(torch.tensor([i]), max(1, round(abs(region.side))))[0]
        unit = region.unit((0, 0, *size))
        return _sample(1 - mask, unit, "nearest", "zeros")[0] > 0.5

    def _crops(self, i: int) -> list[int]:
        """Those of the photo that crop i is of."""
        return [each for each, number in enumerate(self.of) if number == self.of[i]]

    def _with_holes(self, number: int, photo: Image.Image, regions: list[Region]) -> list[Region]:
        """Those regions of a photo that have something to complete."""
        draw = self.draws[number]
        if len(regions) == 1 or not isinstance(draw, MaskImage):
            return regions
        if (levels := draw.over(*photo.size)) is None:  # it lies on each
            return regions
        owner = share_out(draw.known_at(pil_to_tensor(levels))[0] == 0, regions, draw.name)
        return [region for k, region in enumerate(regions) if (owner == k).any()]

    def _known(self, i: int, photo: Image.Image, size: int) -> Tensor:
        """The mask (1, 1, S, S) of the crop.  Raises ValueError if it cannot be completed."""
        region, draw = self.regions[i], self.draws[self.of[i]]
        white = crop(Image.new("L", photo.size, 255), region, size, mask=True)
        inside = (pil_to_tensor(white)[None] > 127.5).float()
        if isinstance(draw, MaskImage) and (levels := draw.over(*photo.size)):
            return inside * _cropped_mask(draw, levels, self.hole(i, photo.size), region, size)
        return inside * draw(torch.tensor([i]), size)


def _cropped_mask(
    image: MaskImage, levels: Image.Image, hole: Tensor, region: Region, size: int
) -> Tensor:
    """The mask (1, 1, S, S) of a region, from levels that lie on the whole photo.

    Raises ValueError if the region does not contain the hole (H, W), or is all hole or known.
    """
    unit = region.unit((0, 0, *levels.size))
    within = (unit.real > 0) & (unit.real < 1) & (unit.imag > 0) & (unit.imag < 1)
    if (hole & ~within).any():
        if hole.float().mean() > 0.5:  # a mask as LaMa and IOPaint draw it
            color = image.known
            other = "black" if color == "white" else "white"
            raise ValueError(
                f"{image.name} makes most of the photo a hole: is {color} your hole?  Then use "
                f"mask.known={other}"
            )
        x, y, right, bottom = Image.fromarray(hole.numpy()).getbbox() or (0, 0, 0, 0)
        raise ValueError(
            f"the hole of {image.name} reaches outside the region {region}, which is what can be "
            f"completed: give crop=[x,y,w,h] around [{x},{y},{right - x},{bottom - y}]"
        )
    known = image.known_at(pil_to_tensor(crop(levels, region, size, mask=True)))[None]
    if known.min() == known.max():
        what = "no hole" if known.min() == 1 else "no known pixel"
        raise ValueError(
            f"{image.name} leaves {what} at {size} px in the region {region}: see crop and "
            "mask.threshold, or mask.known for the opposite polarity"
        )
    return known

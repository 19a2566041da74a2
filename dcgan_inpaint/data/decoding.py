"""Decoding of images, and base classes of the sources that decode image files."""

import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, TypeVar, dataclass_transform

import numpy as np
from PIL import ExifTags, Image, ImageCms
from pydantic import Field
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.configs import INTEGER, checked
from dcgan_inpaint.errors import format_count

# options that all sources share
ImageSize = Annotated[int, Field(ge=1, le=1024)]  # side of the square images, in px
Channels = Annotated[Literal[1, 3], INTEGER]
CropShare = Annotated[float, Field(gt=0, le=1)]  # side of the central square / short side

# One image in 20 for validation and one in 20 for testing are the shares of `Folder` too.
# The offsets are half a period apart, which keeps neighbors in an ordered data set apart.
# A change would move images between the splits of models that are trained already.
HOLDOUT_PERIOD = 20
HOLDOUT_OFFSETS = {"val": 6, "test": 16}
# Part of the cache key: raise it when a change of this module changes the pixels of any image.
DECODING_VERSION = 2


TRANSPOSITIONS = {  # by EXIF orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(ValueError):
    """Raised or returned for an image that cannot be decoded; the message names the image."""


def central_square(image: Image.Image, crop: float) -> tuple[int, int, int, int]:
    """Return the central square of an image as a box (left, top, right, bottom), in px.

    Its side is `crop` times the short side.  CelebA's 108 of 178 x 218 px are crop = 108/178,
    the box (35, 55, 143, 163).
    """
    side = max(1, round(crop * min(image.size)))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return left, top, left + side, top + side


def apply_orientation(image: Image.Image) -> Image.Image:
    """Return an image as its EXIF orientation shows it, without that tag.

    Unlike `ImageOps.exif_transpose`, it reads this tag only.  Others may have any type, or be
    damaged; an orientation that cannot be read counts as upright.
    """
    image.load()  # a TIFF file is transposed by this
    try:
        method = TRANSPOSITIONS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises errors of many types for damaged tags
        method = None
    if method is None:
        return image
    upright = image.transpose(method)
    for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
        upright.info.pop(key, None)  # would be applied again
    return upright


def to_rgb_or_gray(image: Image.Image, channels: int) -> Image.Image:
    """Convert an image of any mode to "RGB" (3 channels) or "L" (1 channel), 8 bits each.

    The EXIF orientation is applied, colors are converted from the ICC profile of the image to sRGB,
    and transparent pixels show a white background.  White is 255 in modes of 8 bits, 65,535 in the
    integers of "I" and "I;16", and 1 in the floats of "F".  The result has no metadata.

    Raises:
        ValueError: If integers or floats are outside of the range of their mode, or not finite.
    """
    image = apply_orientation(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_eight_bits(image)
    alpha = None
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        alpha, image = rgba.getchannel("A"), rgba.convert(_opaque_mode(image))
    image = _to_srgb(image)
    if alpha is not None:
        image = image.convert("RGB")
        image.putalpha(alpha)
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB" if channels == 3 else "L")
    image.info = {}  # PIL would write the profile and the transparency into the files of results
    return image


def _opaque_mode(image: Image.Image) -> str:
    """Return the mode of the colors of an image without their transparency."""
    if image.mode in ("CMYK", "LAB"):
        return image.mode
    return "L" if Image.getmodebase(image.mode) == "L" else "RGB"


def _to_srgb(image: Image.Image) -> Image.Image:
    """Convert the colors of an opaque image from its ICC profile to sRGB: "RGB", or "L" if gray.

    Without a profile that fits the mode, RGB values count as sRGB.
    """
    mode, data = _opaque_mode(image), image.info.get("icc_profile")
    image = image.convert(mode)
    try:
        if mode == "LAB":  # has its own space, which PIL cannot convert without a profile
            profile = ImageCms.createProfile("LAB")
        elif data:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(data)).profile
        else:
            return image
        if "sRGB" in ImageCms.getProfileDescription(
            profile
        ):  # nothing changes, not even by rounding
            return image
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):  # damaged, or for another mode
        return image


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Convert an image of integers or floats to "L".  PIL's own conversion clips at 255."""
    values, white = np.asarray(image), 1 if image.mode == "F" else 65535
    low, high = values.min(initial=0), values.max(initial=0)
    if not (low >= 0 and high <= white):  # also for nan
        raise ValueError(
            f"values range from {low:.5g} to {high:.5g}. "
            f"Use values from 0 to {white} in mode {image.mode}, or 8 bits"
        )
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


def to_array(image: Image.Image, size: int, channels: int, crop: float) -> np.ndarray:
    """Return the central square of an image of any mode and size, uint8 (channels, size, size).

    Raises the exceptions of PIL for a broken file.
    """
    converted = to_rgb_or_gray(image, channels)
    box = central_square(converted, crop)
    resized = converted.resize((size, size), Image.Resampling.BICUBIC, box=box)  # antialiased
    return pil_to_tensor(resized).contiguous().numpy()


Class = TypeVar("Class", bound=type)


@dataclass_transform()
def source_class(cls: Class) -> Class:
    """Turn a class into a dataclass whose constructor validates its arguments."""
    dataclass(eq=False, repr=False)(cls)
    cls.__init__ = checked(cls.__init__)  # type: ignore[misc]
    return cls


class DecodedSource:
    """Base class of the sources whose images are decoded by PIL.

    Subclasses are a `source_class`, set `kind`, and implement `items` and `open_image`.

    Attributes:
        image_size: Side of the square images in px.
        channels: 3 for color, 1 for gray.
        crop: Side of the central square divided by the short side.
        root: Directory of the images, if the source has one.
    """

    kind: ClassVar[str]  # name in `sources.SOURCES`, part of the cache key
    image_size: int
    channels: int
    crop: float
    root: str

    @property
    def folder(self) -> Path:
        """Path of `root`."""
        return Path(self.root).expanduser()

    def open_image(self, item: str) -> Image.Image:
        """Open one image."""
        raise NotImplementedError

    def file_of(self, item: str) -> Path | None:
        """Return the file that holds an image; None if `settings` has a hash of all files."""
        return self.folder / item

    def convert(self, image: Image.Image) -> np.ndarray:
        """Return an opened image as uint8 (channels, image_size, image_size)."""
        return to_array(image, self.image_size, self.channels, self.crop)

    def settings(self) -> dict:
        """Return all settings that affect the pixels; they are part of the cache key."""
        shape = {"image_size": self.image_size, "channels": self.channels, "crop": self.crop}
        root = {"root": str(self.folder.resolve())} if hasattr(self, "root") else {}
        return {"source": self.kind, "decoding": DECODING_VERSION} | shape | root

    def decode(self, items: Sequence[str]) -> list[np.ndarray | UnreadableImage]:
        """Decode images to uint8 (channels, image_size, image_size), or to their errors."""
        with ThreadPoolExecutor() as pool:  # PIL releases the interpreter lock
            return list(pool.map(self._decode, items))

    def _decode(self, item: str) -> np.ndarray | UnreadableImage:
        try:
            with self.open_image(item) as image:
                return self.convert(image)
        except Exception as error:  # PIL raises errors of many types for broken files
            return UnreadableImage(f"{item}: cannot be read as an image ({error})")


class PartitionedSource(DecodedSource):
    """Base class of the sources whose data set has predefined parts.

    The attributes named by `part_options` assign a part of the data set to each split.  If the
    part for validation or testing is None, the split is one image in 20 of the
    training part, in order, and these images are not trained on.
    """

    part_options: ClassVar[Mapping[str, str]] = {"train": "train", "val": "val", "test": "test"}
    cache_limit: float | None = None  # in GB; a larger training split is streamed

    @property
    def parts(self) -> dict[str, str | None]:
        """Part of the data set that each split is taken from."""
        return {split: getattr(self, option) for split, option in self.part_options.items()}

    def names(self, part: str | None) -> Sequence[str]:
        """Return the names of the images in a part; no two parts share a name."""
        raise NotImplementedError

    def shard(self, item: str) -> str:
        """Return the file that contains an image; streaming reads the images file by file."""
        return self.kind

    def items(self, split: str) -> list[str]:
        """Return the names of the images in a split, in the order of the data set.

        Raises ValueError if the training part is too small for the holdout.
        """
        parts = self.parts
        if split != "train" and parts[split] is not None:
            return list(self.names(parts[split]))
        names = self.names(parts["train"])
        if split == "train":
            held_out = {HOLDOUT_OFFSETS[s] for s in HOLDOUT_OFFSETS if parts[s] is None}
            return [name for i, name in enumerate(names) if i % HOLDOUT_PERIOD not in held_out]
        if not (holdout := list(names[HOLDOUT_OFFSETS[split] :: HOLDOUT_PERIOD])):
            raise ValueError(
                f"data.{split}=null: a data set of {format_count(len(names), 'image')} is too "
                f"small for a 1-in-{HOLDOUT_PERIOD} {split} split. Select a part of the data set "
                "for it, or use more images"
            )
        return holdout

    def settings(self) -> dict:
        return super().settings() | {"parts": self.parts}

"""Image files -> uint8 (C, S, S): any mode, any size, one square crop, one antialiased resize."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Annotated, Literal

import numpy as np
from PIL import Image, ImageOps
from pydantic import Field
from torchvision.transforms.functional import pil_to_tensor

from dcgan_inpaint.configs import INTEGER

# what a source may be asked for
Side = Annotated[int, Field(ge=1, le=1024)]  # of its square images, px
Channels = Annotated[Literal[1, 3], INTEGER]
Crop = Annotated[float, Field(gt=0, le=1)]  # side of the central square / short side

EXTENSIONS = {e.lower() for e, kind in Image.registered_extensions().items() if kind in Image.OPEN}


class UnreadableImage(ValueError):
    """A file that is no readable image; the message names it."""


def square(image: Image.Image, crop: float) -> tuple[int, int, int, int]:
    """The central square box (left, top, right, bottom) whose side is `crop` times the short side.

    CelebA's 108 px of 178x218 is crop = 108/178: box (35, 55, 143, 163).
    """
    side = max(1, round(crop * min(image.size)))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return left, top, left + side, top + side


def to_rgb_or_gray(image: Image.Image, channels: int) -> Image.Image:
    """Upright (EXIF), 8 bit per channel, transparency on white, "RGB" or "L"."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        # 16-bit grey: PIL's own conversion clips at 255 instead of scaling
        values = np.asarray(image, dtype=np.float32)
        full = 255.0 if values.max(initial=0) <= 255 else 65535.0
        image = Image.fromarray((values.clip(0, full) * (255 / full)).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB" if channels == 3 else "L")


def levels(image: Image.Image, size: int, channels: int, crop: float) -> np.ndarray:
    """The central square of an image of any mode and size, uint8 (channels, size, size)."""
    converted = to_rgb_or_gray(image, channels)
    box = square(converted, crop)
    resized = converted.resize((size, size), Image.Resampling.BICUBIC, box=box)  # antialiased
    return pil_to_tensor(resized).contiguous().numpy()


def decode(file: IO[bytes] | Path, size: int, channels: int, crop: float) -> np.ndarray:
    """`levels` of an image file.  Raises whatever PIL raises on a broken file."""
    with Image.open(file) as image:
        return levels(image, size, channels, crop)


class DecodedImages:
    """What the sources share whose images are decoded; `image` opens one of them."""

    kind: str  # its name among the sources

    def __init__(self, image_size: int, channels: int, crop: float):
        self.image_size, self.channels, self.crop = image_size, channels, crop

    def image(self, item: str) -> Image.Image:
        raise NotImplementedError

    def settings(self) -> dict:
        """What decides the pixels, for the cache key."""
        facts = {"image_size": self.image_size, "channels": self.channels, "crop": self.crop}
        return {"source": self.kind, **facts}

    def decode(self, items: Sequence[str]) -> list[np.ndarray | UnreadableImage]:
        """uint8 (channels, image_size, image_size) for each item, or its error."""
        with ThreadPoolExecutor() as pool:  # PIL releases the interpreter lock
            return list(pool.map(self._decode, items))

    def _decode(self, item: str) -> np.ndarray | UnreadableImage:
        try:
            with self.image(item) as image:
                return levels(image, self.image_size, self.channels, self.crop)
        except Exception as error:  # PIL raises many kinds on broken files: the caller counts them
            return UnreadableImage(f"{item}: cannot be read as an image ({error})")


class ImageFiles(DecodedImages):
    """What the sources whose images are files below `root` share; `open` opens one of them."""

    def __init__(self, root: str, image_size: int, channels: int, crop: float):
        super().__init__(image_size, channels, crop)
        self.root = Path(root).expanduser()

    def open(self, item: str) -> IO[bytes] | Path:
        raise NotImplementedError

    def image(self, item: str) -> Image.Image:
        return Image.open(self.open(item))

    def settings(self) -> dict:
        return super().settings() | {"root": str(self.root.resolve())}


def list_images(folder: Path) -> list[Path]:
    """Every image file below `folder`, sorted."""
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS and path.is_file()
    )


def content_hash(path: Path) -> int:
    """64 bits of the file's content; a renamed or moved file keeps its hash."""
    with path.open("rb") as file:
        return int.from_bytes(hashlib.file_digest(file, "sha256").digest()[:8], "big")

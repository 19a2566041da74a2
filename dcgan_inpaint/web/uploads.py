"""What a request may bring: so many bytes, and images of so many pixels.  All stays in memory."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from io import BytesIO

from PIL import Image
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from dcgan_inpaint.photos.reading import upright

# what PIL decodes by itself: for EPS it starts Ghostscript, which writes files
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
FIELD = 200  # bytes of a field that is no file


@dataclass(frozen=True)
class Limits:
    """Of what strangers may ask for."""

    size: int = 64 * 2**20  # bytes of a request
    pixels: int = 50_000_000  # of an image
    candidates: int = 8
    waiting: int = 16  # people in the line, behind the one whose image is completed
    kept: int = 200_000_000  # pixels of the photos whose completions can still be downloaded


class InMemory(MultiPartParser):
    """A form's files, none of which rolls over to the disk."""

    spool_max_size = 0  # none of its own: `chunks` counts


async def chunks(request: Request, size: int) -> AsyncGenerator[bytes, None]:
    """The body.  Raises HTTPException 413 when it has more bytes than `size`."""
    too_large = HTTPException(413, f"too large: at most {size / 2**20:.3g} MB")
    if int(request.headers.get("content-length", 0)) > size:
        raise too_large
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > size:
            raise too_large
        yield chunk


async def whole(request: Request, size: int) -> bytes:
    """The body; see `chunks`."""
    return b"".join([chunk async for chunk in chunks(request, size)])


async def form(request: Request, size: int) -> FormData:
    """The form that is the body.  Raises HTTPException 400, or 413, if it is none or too large."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise HTTPException(400, "not a form: use multipart/form-data")
    body = chunks(request, size)
    parser = InMemory(request.headers, body, max_files=2, max_fields=2, max_part_size=FIELD)
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"not a form: {error.message}") from error


async def file_of(given: FormData, name: str) -> bytes:
    """The bytes of a file of a form.  Raises HTTPException 400 if it is missing."""
    file = given.get(name)
    if not isinstance(file, UploadFile):
        raise HTTPException(400, f"{name}: missing: give a file")
    return await file.read()


def opened(file: bytes, pixels: int) -> Image.Image:
    """The image of a file, not yet decoded.  Raises ValueError, one line, for one that is none,
    or is larger than `pixels`."""
    most = f"at most {pixels / 1e6:g} million"
    Image.init()
    try:
        image = Image.open(BytesIO(file), formats=[kind for kind in KINDS if kind in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise ValueError(f"has too many pixels: {most}") from error
    except Exception as error:  # PIL raises many kinds on broken files
        raise ValueError(f"cannot be read as an image: use {', '.join(KINDS)}") from error
    if image.width * image.height > pixels:
        raise ValueError(f"has {image.width} x {image.height} pixels: {most}")
    return image


def decoded(file: bytes, pixels: int) -> Image.Image:
    """The upright image of a file, 8 bit, "L" or "RGB", transparency on white.

    Raises ValueError, one line, as `opened` does, and for one that is damaged.
    """
    image = opened(file, pixels)
    try:
        return upright(image)
    except Exception as error:
        raise ValueError(f"is a damaged {image.format} file") from error

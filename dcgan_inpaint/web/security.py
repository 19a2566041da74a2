"""Protection against untrusted requests: hosts, origins, sizes and image formats."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from ipaddress import ip_address

from PIL import Image
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dcgan_inpaint.photos.reading import to_upright

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # browsers cache on disk, and photos must not be stored there
}
AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:\d{1,5})?")
# Pillow decodes these formats in-process. For EPS it runs Ghostscript, which writes files.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")


@dataclass(frozen=True)
class Limits:
    """Limits on the resources that clients may use."""

    max_bytes: int = 64 * 2**20  # of a request body
    max_pixels: int = 50_000_000  # of an uploaded image
    max_candidates: int = 8
    max_waiting: int = 16  # jobs in the queue, without the running one
    max_stored_pixels: int = 200_000_000  # total size of the photos with stored completions


class Guard:
    """ASGI middleware that adds HEADERS to all responses and rejects cross-origin requests.

    The Host header must be localhost, an IP address or `host`, which prevents DNS rebinding.
    The Origin header, if present, must match the Host header. Starlette's TrustedHostMiddleware
    cannot replace this class: it neither accepts arbitrary IP addresses nor checks the origin.

    Args:
        app: Application to protect.
        host: Host name under which the server is reached.
    """

    def __init__(self, app: ASGIApp, host: str):
        self.app, self.host = app, host.lower()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self.app
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self.is_allowed(host):
            text = f"host={host[:80]}: unknown host name. Open the page by the server's IP address"
            app = PlainTextResponse(text, 403)
        elif origin is not None and origin not in (f"http://{host}", f"https://{host}"):
            app = PlainTextResponse("cross-origin requests are not allowed", 403)
        with suppress(
            ClientDisconnect
        ):  # disconnected during an upload: there is no client to respond to
            await app(scope, receive, send_with_headers)

    def is_allowed(self, host: str) -> bool:
        """Return whether a Host header names this server."""
        match = AUTHORITY.fullmatch(host)
        if match is None:
            return False
        name = match[1].strip("[]").lower()
        with suppress(ValueError):
            ip_address(name)
            return True
        return name in ("localhost", self.host)


def open_image(name: str, file: bytes, max_pixels: int) -> Image.Image:
    """Open an uploaded image without decoding its pixels.

    Args:
        name: Name of the image in error messages.
        file: Content of the uploaded file.
        max_pixels: Maximum number of pixels, checked before decoding.

    Raises:
        ValueError: If the file is not an image in one of FORMATS, or has too many pixels.
    """
    try:
        image = Image.open(BytesIO(file), formats=FORMATS)
        is_too_large = image.width * image.height > max_pixels
    except Image.DecompressionBombError:  # above Pillow's own limit
        is_too_large = True
    except Exception as error:  # Pillow raises various exceptions for broken files
        raise ValueError(f"{name}: not a readable image. Use {', '.join(FORMATS)}") from error
    if is_too_large:
        limit = f"{max_pixels / 1e6:g} million pixels"
        raise ValueError(f"{name}: image has more than {limit}. Use a smaller image")
    return image


def decode_image(
    name: str,
    file: bytes,
    max_pixels: int,
    convert: Callable[[Image.Image], Image.Image] = to_upright,
) -> Image.Image:
    """Decode an uploaded image.

    Args:
        name: As in `open_image`.
        file: As in `open_image`.
        max_pixels: As in `open_image`.
        convert: Decodes and converts the opened image. The default returns an upright 8-bit image
            in mode "L" or "RGB", with transparent pixels on white.

    Raises:
        ValueError: As `open_image`, or if the file is damaged.
    """
    image = open_image(name, file, max_pixels)
    try:
        return convert(image)
    except Exception as error:  # as above
        raise ValueError(f"{name}: damaged {image.format} file. Use another file") from error

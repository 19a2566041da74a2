"""The routes.  No word of a request names a file: the page's own are read once, at the start."""

import json
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dcgan_inpaint.api import Completer
from dcgan_inpaint.inpainting.module import Progress
from dcgan_inpaint.web import offers
from dcgan_inpaint.web.completing import Kept, Wanted, complete, data_url, png
from dcgan_inpaint.web.guard import Guard
from dcgan_inpaint.web.queue import Busy, Job, Line, Stopped
from dcgan_inpaint.web.uploads import Limits, decoded, file_of, form, opened, whole

PAGE = {"": "text/html", "page.js": "text/javascript", "page.css": "text/css"}
VIEW = 1280  # px of the long side of what is painted on
T = TypeVar("T")


class Server:
    """Serves the page, and completes images for it with `completer`.

    Raises ValueError if the completer does not search, or cannot complete an image.
    """

    def __init__(self, completer: Completer, limits: Limits | None = None):
        try_out(completer)
        self.completer, self.limits = completer, limits or Limits()
        self.line, self.kept = Line(self.limits.waiting), Kept(self.limits.kept)
        self.decoders = CapacityLimiter(2)  # each may hold a large photo
        size = completer.model.image_shape[-1]
        self.masks = {name: png(mask) for name, mask in offers.masks(size).items()}
        self.examples = {name: png(image) for name, image in offers.examples().items()}
        static = files("dcgan_inpaint.web") / "static"
        self.page = {name: (static / (name or "index.html")).read_bytes() for name in PAGE}

    def app(self, host: str = "127.0.0.1") -> Guard:
        """The ASGI application of a server that is known as `host`."""
        routes = [
            *(Route(f"/{name}", partial(self.show_page, name=name)) for name in PAGE),
            Route("/about", self.show_about),
            Route("/masks/{name}", self.show_mask),
            Route("/examples/{name}", self.show_example),
            Route("/photo", self.look_at, methods=["POST"]),
            Route("/complete", self.begin, methods=["POST"]),
            Route("/completed/{name}", self.forget, methods=["DELETE"]),
            Route("/completed/{name}/{which}", self.show_completed),
        ]
        return Guard(Starlette(routes=routes), host)

    async def show_page(self, request: Request, name: str) -> Response:
        return Response(self.page[name], media_type=PAGE[name])

    async def show_about(self, request: Request) -> Response:
        """What the page offers, and what it may send."""
        about = {"masks": list(self.masks), "examples": list(self.examples)}
        names = ("size", "pixels", "candidates")
        return JSONResponse(about | {name: getattr(self.limits, name) for name in names})

    async def show_mask(self, request: Request) -> Response:
        return _image(self.masks.get(request.path_params["name"]))

    async def show_example(self, request: Request) -> Response:
        return _image(self.examples.get(request.path_params["name"]))

    async def look_at(self, request: Request) -> Response:
        """The photo that is the body: its size, where its square is, and a view of it."""
        file = await whole(request, self.limits.size)
        return JSONResponse(await self._in_thread(self._looked_at, file))

    def _looked_at(self, file: bytes) -> dict[str, Any]:
        photo = decoded(file, self.limits.pixels)
        width, height = photo.size
        region = self.completer.crop_of(photo)
        # upright and inside the photo, if it was rolled, or reached outside
        side = max(1, min(round(abs(region.side)), width, height))
        corner = region.origin + region.side * (0.5 + 0.5j) - side * (0.5 + 0.5j)
        x = min(max(round(corner.real), 0), width - side)
        y = min(max(round(corner.imag), 0), height - side)
        photo.thumbnail((VIEW, VIEW), Image.Resampling.BICUBIC)
        square = [x, y, side, side]
        return {"width": width, "height": height, "square": square, "view": data_url(photo)}

    async def begin(self, request: Request) -> Response:
        """Server-sent events: of the line ("place"), and of the search (`complete`)."""
        given = await form(request, self.limits.size)
        photo, mask = await file_of(given, "photo"), await file_of(given, "mask")
        square = _numbers("square", str(given.get("square", "")), 4)
        (candidates,) = _numbers("candidates", str(given.get("candidates", "")), 1)
        if not 1 <= candidates <= self.limits.candidates:
            raise HTTPException(400, f"candidates={candidates}: at most {self.limits.candidates}")
        for file in (photo, mask):  # what is no image does not wait in the line
            await self._in_thread(opened, file, self.limits.pixels)
        wanted = Wanted(photo, mask, square, candidates)
        try:
            job = self.line.join(
                lambda say: complete(self.completer, wanted, self.limits.pixels, self.kept, say)
            )
        except Busy as error:
            line = f"{self.limits.waiting} people wait already: try again in a minute"
            raise HTTPException(503, line) from error
        return Events(self.line, job)

    async def show_completed(self, request: Request) -> Response:
        """A candidate, or the mask, at full size."""
        completed = self.kept.all.get(request.path_params["name"])
        if completed is None:
            raise HTTPException(410, "this completion is no longer kept: complete the photo again")
        which = request.path_params["which"]
        return _image(await self._in_thread(lambda: png(completed.image(which))))

    async def forget(self, request: Request) -> Response:
        self.kept.forget(request.path_params["name"])
        return Response(status_code=204)

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        """Work with images, which would hold up everybody else.  Its ValueErrors are answers."""
        try:
            return await to_thread.run_sync(work, *given, limiter=self.decoders)
        except ValueError as error:
            raise HTTPException(400, " ".join(str(error).split())) from error
        except LookupError as error:
            raise HTTPException(404, "there is no such image") from error


class Events(StreamingResponse):
    """What is said to a job, as server-sent events, until all is said or the page is closed."""

    def __init__(self, line: Line, job: Job):
        self.line, self.job = line, job
        super().__init__(self._text(), media_type="text/event-stream")

    async def _text(self) -> Any:
        async for name, data in self.line.events(self.job):
            yield f"event: {name}\ndata: {json.dumps(data)}\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.line.leave(self.job)


def try_out(completer: Completer) -> None:
    """One evaluation: what does not fit is said before anybody comes, and nobody waits for it."""

    def enough(progress: Progress) -> None:
        raise Stopped

    with suppress(Stopped):
        gray = Image.new("RGB", (64, 64), "gray")
        completer(gray, "center", [0, 0, 64, 64], candidates=1, watch=enough)


def _image(file: bytes | None) -> Response:
    if file is None:
        raise HTTPException(404, "there is no such image")
    return Response(file, media_type="image/png")


def _numbers(name: str, text: str, count: int) -> list[int]:
    """Raises HTTPException 400 unless the text is `count` whole numbers."""
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise HTTPException(400, f"{name}={text[:80]}: should be {count} whole numbers")
    return numbers

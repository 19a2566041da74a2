"""ASGI application of the web page."""

import json
import re
import time
import warnings
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from anyio import CapacityLimiter, to_thread
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send
from torchvision.transforms.functional import to_pil_image

from dcgan_inpaint.api import Completer
from dcgan_inpaint.composition import choices_of, conf_dir
from dcgan_inpaint.data.decoding import apply_orientation
from dcgan_inpaint.data.directories import find_images
from dcgan_inpaint.images import to_pil
from dcgan_inpaint.inpainting.module import Progress
from dcgan_inpaint.photos.photos import PORTRAITS
from dcgan_inpaint.web.completions import CompletionStore, StoredCompletion, data_url, encode_png
from dcgan_inpaint.web.queue import Emit, Job, JobCancelled, JobQueue, QueueFull
from dcgan_inpaint.web.security import Guard, Limits, decode_image, open_image

FRAME_INTERVAL = 0.1  # seconds; each frame costs a blend, and more would not look smoother
VIEW_SIZE = 1280  # px of the longer side of the view that users paint on
FILES = ("photo", "mask")  # of the form of a completion
FACE_PHOTOS = ("celeba", "utkface")  # sources (data/sources.py) that the portraits resemble
DESCRIPTIONS = {
    "celeba128": "Made for photos of faces. Fills them in at once, with the finest detail.",
    "celeba64": "Made for photos of faces. Half the resolution, so less detail.",
    "faces64": "Knows drawn faces only. It is for experiments, not for photos.",
}
MultiPartParser.spool_max_size = 0  # 0 keeps uploads in memory; the default writes them to disk


class Server:
    """Web server that shows the page and completes photos with one of several models.

    Its HTTP API is described in README.md, and in static/openapi.json.

    Args:
        completers: A Completer for each model that clients can choose; the first is the default.
            Only a search shows its progress and has several candidates.
        limits: Limits on the resources that clients may use.

    Raises:
        ValueError: If a completer cannot complete an image.
    """

    def __init__(self, completers: Sequence[Completer], limits: Limits | None = None):
        self.limits = limits or Limits()
        self.completers = {public_name(completer): completer for completer in completers}
        self.max_candidates = {
            name: self.limits.max_candidates if has_candidates(completer) else 1
            for name, completer in self.completers.items()
        }
        self.queue = JobQueue(self.limits.max_waiting)
        self.store = CompletionStore(self.limits.max_stored_pixels)
        self.decoders = CapacityLimiter(2)  # each of these threads may hold a large photo
        masks = named_masks(completers[0].model.image_shape[-1])
        self.masks = {name: encode_png(mask) for name, mask in masks.items()}
        self.examples = {path.stem: path.read_bytes() for path in find_images(str(PORTRAITS))}

    def app(self, host: str = "127.0.0.1") -> Guard:
        """Return the ASGI application of a server that is reached as `host`."""
        routes = [
            Route("/about", self.show_about),
            Route("/masks/{name}", partial(self.show_image, images=self.masks, kind="png")),
            Route("/examples/{name}", partial(self.show_image, images=self.examples, kind="webp")),
            Route("/photo", self.inspect_photo, methods=["POST"]),
            Route("/faces", self.find_faces, methods=["POST"]),
            Route("/complete", self.complete_photo, methods=["POST"]),
            Route("/completions/{id}", self.remove_completion, methods=["DELETE"]),
            Route("/completions/{id}/{name}", self.show_completion),
            Mount("/", StaticFiles(packages=[("dcgan_inpaint.web", "static")], html=True)),
        ]
        return Guard(Starlette(routes=routes, max_body_size=self.limits.max_bytes), host)

    async def show_about(self, request: Request) -> Response:
        """Return the models with their examples, the names of the masks, and the limits."""
        models = [
            {
                "name": name,
                "description": model_description(name, completer),
                "max_candidates": self.max_candidates[name],
                "examples": list(self.examples) if is_for_face_photos(completer) else [],
            }
            for name, completer in self.completers.items()
        ]
        return JSONResponse({"models": models, "masks": list(self.masks)} | asdict(self.limits))

    async def show_image(self, request: Request, images: dict[str, bytes], kind: str) -> Response:
        """Return a mask or an example image."""
        if (file := images.get(request.path_params["name"])) is None:
            raise HTTPException(404, "unknown image")
        return Response(file, media_type=f"image/{kind}")

    async def inspect_photo(self, request: Request) -> Response:
        """Return the size, the default crop and a view of the photo in the request body."""
        completer = self._completer(request.query_params.get("model"))
        photo = await self._in_thread(self._inspect, await request.body(), completer)
        return JSONResponse(photo)

    def _inspect(self, file: bytes, completer: Completer) -> dict[str, Any]:
        photo = decode_image("photo", file, self.limits.max_pixels)
        width, height = photo.size
        crop = completer.crop_of(photo)
        # The page shows an upright square inside the photo; the crop may be rotated or exceed it.
        side = max(1, min(round(abs(crop.side)), width, height))
        corner = crop.origin + crop.side * (0.5 + 0.5j) - side * (0.5 + 0.5j)
        x = min(max(round(corner.real), 0), width - side)
        y = min(max(round(corner.imag), 0), height - side)
        photo.thumbnail((VIEW_SIZE, VIEW_SIZE), Image.Resampling.BICUBIC)
        return {
            "width": width,
            "height": height,
            "crop": [x, y, side, side],
            "without_face": crop.without_face,
            "view": data_url(photo),
        }

    async def find_faces(self, request: Request) -> Response:
        """Return the corners of the squares around all faces of the photo in the request body."""
        completer = self._completer(request.query_params.get("model"))
        squares = await self._in_thread(self._find_faces, await request.body(), completer)
        return JSONResponse({"squares": squares})

    def _find_faces(self, file: bytes, completer: Completer) -> list[list[list[float]]]:
        crops = completer.crops_of(decode_image("photo", file, self.limits.max_pixels))
        corners = [[crop.origin + crop.side * at for at in (0, 1, 1 + 1j, 1j)] for crop in crops]
        return [[[point.real, point.imag] for point in square] for square in corners]

    async def complete_photo(self, request: Request) -> Response:
        """Return server-sent events: "position" in the queue, and those of the search."""
        # Two files, and three fields; none is longer than a path with the name of a model.
        form = await request.form(max_files=2, max_fields=3, max_part_size=1000)
        files, fields = {}, {}
        for name, value in form.items():
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                fields[name] = value
        name = fields.pop("model", next(iter(self.completers)))
        completer, max_candidates = self._completer(name), self.max_candidates[name]
        crop, candidates = fields.pop("crop", None), fields.pop("candidates", None)
        for name in fields:
            if name not in FILES:
                raise HTTPException(400, f"{name}: unknown field. Use model, crop or candidates")
        if crop is not None and not re.fullmatch(r"-?\d+(,-?\d+){3}", crop):
            raise HTTPException(400, f"crop={crop}: expected four integers x,y,width,height")
        if candidates is not None and candidates not in map(str, range(1, max_candidates + 1)):
            reason = f"expected 1 to {max_candidates}"
            if max_candidates == 1:
                reason = "the method makes a single completion. Use 1"
            raise HTTPException(400, f"candidates={candidates}: {reason}")
        for name in FILES:
            if name not in files:
                raise HTTPException(400, f"{name}: expected a file of a multipart/form-data form")
            # Invalid files are rejected before they wait in the queue.
            await self._in_thread(open_image, name, files[name], self.limits.max_pixels)
        square = None if crop is None else [int(number) for number in crop.split(",")]
        count = None if candidates is None or max_candidates == 1 else int(candidates)
        work = partial(self._complete, completer, files["photo"], files["mask"], square, count)
        try:
            return EventStream(self.queue, self.queue.submit(work))
        except QueueFull as error:
            raise HTTPException(503, "too many photos are waiting. Try again later") from error

    def _complete(
        self,
        completer: Completer,
        photo: bytes,
        mask: bytes,
        crop: list[int] | None,
        candidates: int | None,
        emit: Emit,
    ) -> None:
        """Complete a photo in the worker thread and emit the events of its search.

        Emits "frame" with the current completion of a search, about ten times per second, and at
        the end "done" with `StoredCompletion.summary` and the identifier of the completion.

        Args:
            completer: Completer of the chosen model.
            photo: Content of the photo's file.
            mask: Content of the mask's file, an image of the photo's shape (white = known).
            crop: Square [x, y, width, height] in px of the upright photo. None: around the face.
            candidates: Number of candidates. None: as the completer is configured.
            emit: Sends an event to the client.

        Raises:
            ValueError: If the photo, the mask or the crop is invalid.
        """
        photo_image = decode_image("photo", photo, self.limits.max_pixels)
        # The completer reads the mask as mask=file does, with the rules for its alpha channel.
        mask_image = decode_image("mask", mask, self.limits.max_pixels, apply_orientation)
        totals: list[float] = []  # objective of each iteration since the last frame
        last_frame = float("-inf")

        def watch(progress: Progress) -> None:
            nonlocal last_frame
            totals.append(progress.losses[0, 2].item())
            if time.monotonic() - last_frame < FRAME_INTERVAL:
                return
            frame = {
                "iteration": progress.iteration,
                "iterations": progress.iterations,
                "totals": totals[:],
                "image": data_url(to_pil(progress.show()[0])),
            }
            emit("frame", frame)  # raises JobCancelled if the page has been closed
            totals.clear()
            last_frame = time.monotonic()

        with warnings.catch_warnings(action="ignore", category=UserWarning):
            # They are for the caller of a Completer; the page shows them itself.
            result = completer(photo_image, mask_image, crop, candidates, watch=watch)
        completion = StoredCompletion(result)
        identifier = self.store.add(completion)
        try:
            emit("done", completion.summary() | {"id": identifier})
        except JobCancelled:
            self.store.pop(identifier)  # no client knows the identifier
            raise

    async def show_completion(self, request: Request) -> Response:
        """Return a full-size candidate, the mean or the mask."""
        if (completion := self.store.get(request.path_params["id"])) is None:
            raise HTTPException(410, "completion no longer stored. Complete the photo again")
        name = request.path_params["name"]
        file = await self._in_thread(lambda: encode_png(completion.image(name)))
        return Response(file, media_type="image/png")

    async def remove_completion(self, request: Request) -> Response:
        """Remove a completion from memory."""
        self.store.pop(request.path_params["id"], None)
        return Response(status_code=204)

    def _completer(self, name: str | None) -> Completer:
        """Return the completer of a model, or of the default one for None."""
        name = next(iter(self.completers)) if name is None else name
        if (completer := self.completers.get(name)) is None:
            names = " or ".join(self.completers)
            raise HTTPException(400, f"model={name}: unknown model. Use {names}")
        return completer

    async def _in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Process images in a thread, so that other clients do not have to wait."""
        try:
            return await to_thread.run_sync(function, *args, limiter=self.decoders)
        except ValueError as error:
            raise HTTPException(400, " ".join(str(error).split())) from error
        except LookupError as error:
            raise HTTPException(404, "unknown image") from error


class EventStream(StreamingResponse):
    """Server-sent events of a job, which is cancelled when the client disconnects."""

    def __init__(self, queue: JobQueue, job: Job):
        self.queue, self.job = queue, job
        super().__init__(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        while (event := await self.job.events.get()) is not None:
            name, data = event
            yield f"event: {name}\ndata: {json.dumps(data)}\n\n"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.queue.remove(self.job)


def public_name(completer: Completer) -> str:
    """Return the name of a completer's model for clients: of a path the last two parts only."""
    return "/".join(Path(completer.name).parts[-2:])


def model_description(name: str, completer: Completer) -> str:
    """Return a sentence or two that help users to choose a model."""
    size = completer.model.image_shape[-1]
    return DESCRIPTIONS.get(name, f"Your own model, for images of {size} pixels.")


def is_for_face_photos(completer: Completer) -> bool:
    """Return whether a model was trained on photos of faces, such as the portraits."""
    return (completer.model.data or {}).get("source") in FACE_PHOTOS


def has_candidates(completer: Completer) -> bool:
    """Return whether a completer can return several candidates, which only a search does.

    Starts a completion, to report invalid options at start-up and to warm up the model. A search
    ends after its first iteration.

    Raises:
        ValueError: If the completer cannot complete an image.
    """

    def stop(progress: Progress) -> None:
        raise JobCancelled

    gray = Image.new("RGB", (64, 64), "gray")
    try:
        completer(gray, "center", [0, 0, 64, 64], watch=stop)
    except JobCancelled:  # other methods do not call `watch`
        return True
    return False


def named_masks(size: int) -> dict[str, Image.Image]:
    """Return the masks of conf/mask that users can choose, size x size px (white = known)."""
    masks = {}
    for name in choices_of("mask"):
        cfg = OmegaConf.load(conf_dir() / "mask" / f"{name}.yaml")
        # Skip masks that need a file or other masks, and measurements of another kind.
        if "_target_" not in cfg or OmegaConf.missing_keys(cfg) or "defaults" in cfg:
            continue
        mask = instantiate(cfg)(torch.tensor([0]), size)[0]  # (1, S, S)
        if mask.min() < mask.max():
            masks[name] = to_pil_image(mask)
    return masks

"""Shared by the tests of the web page: a server in this process on a free port."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import numpy as np
import uvicorn
from PIL import Image

from dcgan_inpaint.photos.photos import PORTRAITS
from dcgan_inpaint.web import server as server_module
from dcgan_inpaint.web.__main__ import open_socket
from dcgan_inpaint.web.server import Server

STATIC = Path(server_module.__file__).parent / "static"
OPENAPI = json.loads((STATIC / "openapi.json").read_text())


@contextmanager
def run_server(server: Server) -> Iterator[str]:
    """Run a server in a thread and yield its URL."""
    server_socket = open_socket("127.0.0.1", 0)
    config = uvicorn.Config(
        server.app(), log_level="warning", ws="none", timeout_graceful_shutdown=1
    )
    uvicorn_server = uvicorn.Server(config)
    thread = threading.Thread(target=uvicorn_server.run, kwargs={"sockets": [server_socket]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server_socket.getsockname()[1]}"
    finally:
        uvicorn_server.should_exit = True
        thread.join()


def group_photo(distance: int = 448) -> Image.Image:
    """Return a photo of two people: two of the portraits, 448 x 448 px, side by side.

    Args:
        distance: That of the faces in px. If it is less than 448, the second portrait covers a part
            of the first one.
    """
    photo = Image.new("RGB", (distance + 448, 448))
    for i, name in enumerate(("portrait_01", "portrait_07")):
        with Image.open(PORTRAITS / f"{name}.webp") as portrait:
            photo.paste(portrait, (distance * i, 0))
    return photo


def encode_image(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Return the content of an image file."""
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def decode(source: str | httpx.Response) -> np.ndarray:
    """Return the pixels of the image in a response or a data URL."""
    data = base64.b64decode(source.partition(",")[2]) if isinstance(source, str) else source.content
    with Image.open(BytesIO(data)) as image:
        return np.asarray(image)


def read_events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Yield (name, data) of each server-sent event as it arrives."""
    lines = response.iter_lines()
    for line in lines:
        name = line.removeprefix("event: ")
        yield name, json.loads(next(lines).removeprefix("data: "))
        assert next(lines) == ""


def check_documented(data: Any, schema: str) -> None:
    """Raise if data does not match a schema of openapi.json, or has an undocumented property."""

    def close(node: Any) -> Any:
        if isinstance(node, list):
            return [close(each) for each in node]
        if not isinstance(node, dict):
            return node
        closed = {key: close(value) for key, value in node.items()}
        return closed | {"additionalProperties": False} if node.get("type") == "object" else closed

    components = close(OPENAPI["components"])
    jsonschema.validate(
        data,
        {"$ref": f"#/components/schemas/{schema}", "components": components},
        jsonschema.Draft202012Validator,
    )

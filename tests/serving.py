"""Shared by the tests of the web page: a server in this process on a free port."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import uvicorn
from PIL import Image

from dcgan_inpaint.web.__main__ import open_socket
from dcgan_inpaint.web.server import Server


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


def encode_image(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """Return the content of an image file."""
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()

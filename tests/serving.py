"""What the tests of the page share: a server in this process, on a port of its own."""

import threading
from contextlib import contextmanager
from io import BytesIO

import uvicorn
from PIL import Image

from dcgan_inpaint.web.__main__ import listen


@contextmanager
def served(server):
    """Serves a web.server.Server and gives its address."""
    listening = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        server.app(), log_level="warning", ws="none", timeout_graceful_shutdown=1
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


def file_of(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()

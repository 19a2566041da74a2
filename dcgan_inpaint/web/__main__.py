"""python -m dcgan_inpaint.web, or dcgan-web: complete images in a browser"""

import argparse
import socket
from contextlib import suppress

from dcgan_inpaint.api import Completer
from dcgan_inpaint.errors import import_extra, one_line_errors


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="dcgan-web", description="Serve a page to complete images in a browser."
    )
    parser.add_argument(
        "--ckpt", default="celeba64", help="a shipped checkpoint by name, or the path of yours"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; the default is this machine alone, 0.0.0.0 is everybody: there is "
        "no password",
    )
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free")
    parser.add_argument("words", nargs="*", help="settings as for inpaint.py: solver.iterations=50")
    args = parser.parse_args()
    with one_line_errors():
        uvicorn = import_extra("uvicorn", "the page", "Starlette and uvicorn", "web")
        for module in ("starlette", "python_multipart"):
            import_extra(module, "the page", "Starlette and python-multipart", "web")
        from dcgan_inpaint.web.server import Server  # which imports them

        listening = listen(args.host, args.port)
        server = Server(Completer.load(args.ckpt, *args.words))
    config = uvicorn.Config(
        server.app(args.host),
        log_level="warning",
        server_header=False,
        ws="none",
        limit_concurrency=100,  # connections
        timeout_graceful_shutdown=1,  # seconds until searches under way are stopped
    )
    print(f"http://{address(args.host)}:{listening.getsockname()[1]}", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    """Raises ValueError, one line, for a place where nobody can listen."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"--host {host} --port {port}: cannot listen there: {why}") from error


def address(host: str) -> str:
    return f"[{host}]" if ":" in host else host


if __name__ == "__main__":
    main()

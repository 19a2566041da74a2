"""Command-line entry point of the web page: python -m dcgan_inpaint.web, or dcgan-web."""

import argparse
import socket
from contextlib import suppress

from dcgan_inpaint.api import Completer
from dcgan_inpaint.errors import import_extra, one_line_errors, tolerate_closed_pipes

FACE_MODELS = ("celeba128", "celeba64")  # for photos of faces, the best one first


def main() -> None:
    """Serve the page until interrupted."""
    tolerate_closed_pipes()
    parser = argparse.ArgumentParser(
        prog="dcgan-web", description="Serve a web page that completes images."
    )
    parser.add_argument(
        "--ckpt",
        action="append",
        help="name of a shipped checkpoint, or path of a checkpoint; repeat it to offer several "
        f"models, the first by default. Without it: {' and '.join(FACE_MODELS)}",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address; 0.0.0.0 accepts connections from other machines, without a password",
    )
    parser.add_argument("--port", type=int, default=8000, help="port; 0 selects a free port")
    parser.add_argument(
        "overrides", nargs="*", help="overrides of inpaint.py, for example solver.iterations=50"
    )
    args = parser.parse_args()
    with one_line_errors():
        uvicorn = import_extra("uvicorn", "the web page", "uvicorn", "web")
        import_extra("starlette", "the web page", "Starlette", "web")
        import_extra("python_multipart", "the web page", "python-multipart", "web")
        from dcgan_inpaint.web.server import Server  # imports the modules above

        server_socket = open_socket(args.host, args.port)
        ckpts = args.ckpt or FACE_MODELS
        server = Server([Completer.load(ckpt, *args.overrides) for ckpt in ckpts])
    config = uvicorn.Config(
        server.app(args.host),
        log_level="warning",
        server_header=False,
        ws="none",
        limit_concurrency=100,  # connections
        timeout_graceful_shutdown=1,  # seconds until running searches are cancelled
    )
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(f"http://{host}:{server_socket.getsockname()[1]}", flush=True)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[server_socket])


def open_socket(host: str, port: int) -> socket.socket:
    """Open a listening socket; uvicorn's own would exit without a one-line error.

    Raises:
        ValueError: If the address is invalid or in use.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"--host {host} --port {port}: cannot listen: {reason}. Use another host or port"
        ) from error


if __name__ == "__main__":
    main()

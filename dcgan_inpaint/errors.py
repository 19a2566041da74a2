"""One-line messages, without a traceback, for errors caused by user input."""

import importlib
import io
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hydra.errors import InstantiationException


def show(value: Any) -> str:
    """Format a value as on the command line, cut to 80 characters."""
    text = "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 80 else f"{text[:77]}..."


def format_count(number: int, noun: str) -> str:
    """Return a number with a regular noun in singular or plural, such as "1 image"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def explain_devices(options: Mapping[str, Any], error: Exception) -> str:
    """Return one line about an error of Lightning for trainer.accelerator and trainer.devices."""
    given = " ".join(
        f"trainer.{key}={show(options.get(key))}" for key in ("accelerator", "devices")
    )
    if isinstance(error, TypeError) and isinstance(options.get("devices"), list):
        return f"{given}: device numbers are those of GPUs. Use trainer.devices=1 without a GPU"
    return f"{given}: {error}"


class _OpenEnded(io.FileIO):
    """File descriptor of an output that may be a pipe, of which the reader may end first."""

    def write(self, data: Any) -> int:
        """Write bytes, and drop them if nobody reads them any more."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(memoryview(data).cast("B"))


def tolerate_closed_pipes() -> None:
    """Let a program run to its end if its output is closed, as by `| head`.

    Paths that are not UTF-8 are printed as they are.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__") and isinstance(stream, io.TextIOWrapper):
            raw = _OpenEnded(stream.fileno(), "wb", closefd=False)
            open_ended = io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors="surrogateescape",
                line_buffering=stream.line_buffering,
            )
            setattr(sys, name, open_ended)


def import_extra(module: str, user: str, library: str, extra: str) -> Any:
    """Import a module of an optional extra.

    Raises ModuleNotFoundError, one line that names the extra, if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{user} needs {library}. Install it: pip install -e ".[{extra}]"'
        ) from error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise the error of a constructor instead of Hydra's InstantiationException around it."""
    try:
        yield
        return
    except InstantiationException as error:
        cause = error.__cause__ or error
    raise cause


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for an error caused by user input.

    Use it around code that reads input and builds objects.  Other exceptions keep their traceback.
    """
    try:
        with unwrapped():
            yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    except RuntimeError as error:
        if "home directory" not in str(error):  # pathlib cannot expand ~
            raise
        sys.exit("error: ~: this user has no home directory. Use paths without ~, or set HOME")


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """End the program with one line of advice when tensors do not fit into memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError is a RuntimeError; on a CPU torch raises a plain one
        name, text = type(error).__name__, str(error)
        if name in ("MemoryError", "OutOfMemoryError") or "can't allocate memory" in text:
            sys.exit(f"error: out of memory. {remedy}")
        raise


class Interrupted(BaseException):
    """Raised by a signal; like KeyboardInterrupt, `except Exception` does not catch it."""


@contextmanager
def exit_on_signal(advice: Callable[[], str]) -> Iterator[None]:
    """End the program with one line on SIGTERM or SIGINT, with exit code 128 + signal number.

    Args:
        advice: Returns how to continue. It is called after the block has stopped.
    """
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        raise Interrupted

    previous = {n: signal.signal(n, stop) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except BaseException:
        # Libraries may turn Interrupted into an error of their own; pydantic does.
        if not received:
            raise
        print(f"{signal.Signals(received[0]).name}: {advice()}", file=sys.stderr)
        sys.exit(128 + received[0])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def exit_on_failure(advice: Callable[[], str]) -> Iterator[None]:
    """End a started run with one line on a signal, or with exit code 1 on a failure.

    A failure is a full or missing disk (OSError), or weights that are not finite
    (FloatingPointError). Other exceptions are bugs and keep their traceback.

    Args:
        advice: Returns how to continue. It is called after the block has stopped.
    """
    try:
        with exit_on_signal(advice):
            yield
    except (FloatingPointError, OSError) as error:
        sys.exit(f"error: {error}; {advice()}")

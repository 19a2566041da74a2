"""Bad input ends in one line that names it, before any long work; a bug keeps its traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for errors that the user's input caused.

    Wraps the part of a script that reads input and builds objects.
    """
    try:
        yield
    except Exception as caught:
        error: BaseException = caught
        if type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
            error = error.__cause__  # what a constructor raised, inside Hydra's wrapping
        if isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
            sys.exit(f"error: {error}")
        raise


@contextmanager
def out_of_memory(remedy: str) -> Iterator[None]:
    """End the program with one line, the remedy, when tensors do not fit into memory."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        known = isinstance(error, (MemoryError, torch.OutOfMemoryError))
        if known or "can't allocate memory" in str(error):  # what torch says on a CPU
            sys.exit(f"error: out of memory: {remedy}")
        raise

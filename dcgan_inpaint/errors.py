"""Errors that the user's input caused: one line on standard error, no traceback."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from hydra.errors import InstantiationException
from pytorch_lightning.utilities.exceptions import MisconfigurationException


def show(value: Any) -> str:
    """As one would type it, not too long."""
    text = "null" if value is None else str(value)
    text = text.lower() if isinstance(value, bool) else text
    return text if len(text) <= 80 else f"{text[:77]}..."


def import_extra(module: str, user: str, library: str, extra: str) -> Any:
    """A module that only `user` needs.  Raises ModuleNotFoundError, one line, without it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f'{user} needs {library}: pip install -e ".[{extra}]"') from error


@contextmanager
def unwrapped() -> Iterator[None]:
    """Raise what a constructor raised, where Hydra, which called it, raises an error of its own."""
    try:
        yield
        return
    except InstantiationException as error:
        cause = error.__cause__ or error
    raise cause


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for errors that the user's input caused, in the part of a
    script that reads it and builds objects."""
    try:
        with unwrapped():
            yield
    except (ValueError, OSError, ModuleNotFoundError, MisconfigurationException) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")


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

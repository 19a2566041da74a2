"""Bad input ends in one line that names it, before any long work; a bug keeps its traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


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

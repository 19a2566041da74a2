"""Bad input ends in one line that names it, before any long work; a bug keeps its traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line for errors that the user's input caused.

    Wraps the part of a script that reads input and builds objects.  Hydra wraps what a constructor
    raised, so the cause is looked at.
    """
    try:
        yield
    except Exception as error:
        cause = error.__cause__ or error
        if isinstance(cause, (ValueError, OSError, ModuleNotFoundError)):
            sys.exit(f"error: {cause}")
        raise

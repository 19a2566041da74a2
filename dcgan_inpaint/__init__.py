"""DCGAN training and image completion with a generative prior."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dcgan_inpaint.api import Completer

__all__ = ["Completer", "__version__"]


def __getattr__(name: str) -> Any:
    """Import Completer or __version__ on first access, because importing torch takes seconds."""
    if name == "Completer":
        return import_module("dcgan_inpaint.api").Completer
    if name == "__version__":
        return version("dcgan_inpaint")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

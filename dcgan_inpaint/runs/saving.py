"""How last.ckpt is written, so that a fault at any moment leaves a whole one."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there once it is whole on the disk; the one
    that was there stays, as <name>-1.ckpt.

    Lightning itself writes to the system's temporary folder: from another file system that is a
    copy over the only checkpoint, which a kill or a full disk cuts off.
    """

    def save_checkpoint(
        self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Raises OSError when the disk is full or gone, and leaves what was there."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            with zipfile.ZipFile(part) as written:
                broken = written.testzip()  # what the disk gives back
        except BaseException as error:
            part.unlink(missing_ok=True)
            if isinstance(error, RuntimeError):  # what torch makes of a full disk
                raise OSError(f"{path}: cannot be written ({error})") from error
            raise
        if broken is not None:
            raise OSError(f"{path}: the disk does not give back what was written ({broken})")
        if path.exists():
            before = path.with_name(f"{path.stem}-1{path.suffix}")
            before.unlink(missing_ok=True)
            os.link(path, before)  # so that under its name there is one at every moment
        os.replace(part, path)

"""What was written is what is read: checksums of tensors, and of what torch saves."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

CHECKSUM = "checksum"  # its key among the words of a safetensors file


def checksum(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    """Of all that a safetensors file holds: tensors by name, and words."""
    value = zlib.crc32(repr(sorted(words.items())).encode())
    for name, tensor in sorted(tensors.items()):
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        value = zlib.crc32(head.encode(), value)
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def check_archive(path: Path) -> None:
    """Raise ValueError unless a zip archive, as torch writes it, holds what it says it does.

    torch itself does not compare the checksums when it reads.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type for record in records):  # torch stores them as they are
                raise ValueError("compressed")
            if sum(record.file_size for record in records) > path.stat().st_size:
                raise ValueError("it holds less than it claims")
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError(f"damaged: {error}") from error
    if damaged is not None:
        raise ValueError(f"damaged: {damaged} has another checksum")

"""Checksums of tensors and of PyTorch archives."""

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

CHECKSUM = "checksum"  # key in the metadata of a safetensors file


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Return the CRC-32 of the tensors and metadata of a safetensors file, in hexadecimal."""
    value = zlib.crc32(repr(sorted(metadata.items())).encode())
    for name, tensor in sorted(tensors.items()):
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        value = zlib.crc32(head.encode(), value)
        value = zlib.crc32(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def check_archive(path: Path) -> None:
    """Verify the checksums and sizes in a file of `torch.save`, which `torch.load` does not.

    Raises ValueError for a damaged archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type for record in records):  # torch does not compress
                raise ValueError("the archive is compressed, unlike those of torch.save")
            if sum(record.file_size for record in records) > path.stat().st_size:
                raise ValueError("the records are larger than the archive")
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError(f"damaged archive: {error}") from error
    if damaged is not None:
        raise ValueError(f"damaged archive: wrong checksum of {damaged}")

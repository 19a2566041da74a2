"""Reader of TensorFlow checkpoints ("tensor bundles") that does not need TensorFlow.

The format is small and has been stable since 2016; TensorFlow is more than 500 MB and has no wheels
for some Python versions.  A bundle consists of `<prefix>.index` and the data files
`<prefix>.data-00000-of-00001`, ...  The index is a LevelDB table: blocks of sorted (key, value)
pairs, a block that lists them, and a footer that locates that list.  The key "" holds a
BundleHeaderProto.  The name of a variable holds its BundleEntryProto: dtype, shape and position in
a data file.

Sources: LevelDB, doc/table_format.md; TensorFlow, core/protobuf/tensor_bundle.proto.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER = 48  # bytes: two block handles, zeros up to 40, the magic number
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # DataType in TensorFlow's types.proto


def find_bundle(path: str | Path) -> str:
    """Return the prefix of a checkpoint given by its prefix, its .index file or its directory.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the file `checkpoint` of the directory names no checkpoint.
    """
    prefix = str(path).removesuffix(".index")
    if Path(path).is_dir():
        latest = Path(path) / "checkpoint"
        if not latest.is_file():
            raise FileNotFoundError(f"{path}: has no file named checkpoint. Give an .index file")
        name = re.search(r'^model_checkpoint_path: "(.+)"', latest.read_text("latin1"), re.M)
        if name is None:
            raise ValueError(f"{latest}: names no checkpoint. Give an .index file")
        # Only the last part: the path may be that of the machine that trained the model.
        prefix = str(Path(path) / re.split(r"[/\\]", name[1])[-1])
    if not Path(f"{prefix}.index").is_file():
        raise FileNotFoundError(
            f"{prefix}.index: no such file. Checkpoints of TensorFlow before 0.12 are not supported"
        )
    return prefix


def read_bundle(prefix: str | Path) -> dict[str, np.ndarray]:
    """Read the variables of types float32, float64, int32 and int64 by name.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is truncated, damaged (lengths and checksums are verified) or not
            part of a tensor bundle.
    """
    index = Path(f"{prefix}.index")
    try:
        entries = dict(_table(index.read_bytes()))
        header = dict(_proto_fields(entries.pop(b"", b"")))  # num_shards = 1, endianness = 2
        shards, big_endian = int(header.get(1, 0)), header.get(2, 0)
        if shards < 1 or big_endian:
            raise ValueError("the header is missing or big-endian")
        variables = {key.decode(): _entry(value) for key, value in entries.items()}
    except (ValueError, IndexError, TypeError) as error:  # the last two: bytes that do not parse
        raise ValueError(f"{index}: truncated, or not a tensor bundle ({error})") from error
    return {
        name: _read_tensor(name, entry, Path(f"{prefix}.data-{entry.shard:05d}-of-{shards:05d}"))
        for name, entry in variables.items()
        if entry.dtype in DTYPES
    }


class _Entry(NamedTuple):
    """A BundleEntryProto; its fields are numbered from 1 to 6, and zeros are not stored."""

    dtype: int
    shape: list[int]
    shard: int
    offset: int
    size: int
    crc32c: int


def _entry(message: bytes) -> _Entry:
    """Parse a BundleEntryProto."""
    fields = dict(_proto_fields(message))
    # TensorShapeProto: dim = 2, repeated; in each size = 1
    dims = (value for number, value in _proto_fields(fields.get(2, b"")) if number == 2)
    shape = [dict(_proto_fields(dim)).get(1, 0) for dim in dims]
    return _Entry(int(fields.get(1, 0)), shape, *(int(fields.get(i, 0)) for i in range(3, 7)))


def _read_tensor(name: str, entry: _Entry, file: Path) -> np.ndarray:
    """Read a variable from its data file and verify length and checksum."""
    dtype, count = np.dtype(DTYPES[entry.dtype]), math.prod(entry.shape)
    if count * dtype.itemsize != entry.size:
        raise ValueError(f"{file}: {name} of shape {entry.shape} has {entry.size} bytes")
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file. Copy it to the directory of the .index file"
        )
    if entry.offset + entry.size > file.stat().st_size:
        raise ValueError(f"{file}: truncated, {name} is missing")
    values = np.fromfile(file, dtype, count, offset=entry.offset)
    if masked_crc32c(values.tobytes()) != entry.crc32c:
        raise ValueError(f"{file}: damaged, wrong checksum of {name}")
    return values.reshape(entry.shape)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a LevelDB table in order."""
    if data[-8:] != MAGIC:
        raise ValueError("the footer is missing")
    _, position = _handle(data, len(data) - FOOTER)  # of the metaindex, which is empty
    index, _ = _handle(data, position)
    for _, value in _block_pairs(_block(data, *index)):
        yield from _block_pairs(_block(data, *_handle(value, 0)[0]))


def _handle(data: bytes, position: int) -> tuple[tuple[int, int], int]:
    """Return (offset, size) of a block and the position of the next field."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return (offset, size), position


def _block(data: bytes, offset: int, size: int) -> bytes:
    """Return the contents of a block, which precede a compression byte and a checksum."""
    end = offset + size
    if masked_crc32c(data[offset : end + 1]) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise ValueError("wrong checksum of a block")
    if data[end] != 0:  # TensorFlow writes the index uncompressed
        raise ValueError(f"unsupported compression {data[end]}")
    return data[offset:end]


def _block_pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the (key, value) pairs of a block; a key omits the prefix it shares with the last."""
    restarts = int.from_bytes(block[-4:], "little")  # positions of complete keys, for searching
    key, position = b"", 0
    while position < len(block) - 4 * (restarts + 1):
        shared, position = _varint(block, position)
        unshared, position = _varint(block, position)
        length, position = _varint(block, position)
        key = key[:shared] + block[position : position + unshared]
        position += unshared + length
        yield key, block[position - length : position]


def _proto_fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of a protobuf message; a value is an int, or bytes with a length."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire_type, size = tag & 7, {1: 8, 5: 4}.get(tag & 7, 0)
        if wire_type not in (0, 1, 2, 5):
            raise ValueError(f"unsupported protobuf wire type {wire_type}")
        if wire_type in (0, 2):  # an integer, or a length
            size, position = _varint(data, position)
        if wire_type == 0:
            yield tag >> 3, size
            continue
        value = data[position : position + size]
        yield tag >> 3, value if wire_type == 2 else int.from_bytes(value, "little")
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a base-128 integer and the position after it.  Raises IndexError past the end."""
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 127) << shift
        shift, position = shift + 7, position + 1
        if byte < 128:
            return value, position


# Own code: google-crc32c would be a compiled dependency of this module alone, and a Python loop
# takes minutes for a checkpoint.  zlib has no CRC-32C.
def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C (RFC 3720, B.4) with LevelDB's mask, at about 100 MB/s.

    A CRC is linear.  The register of A + B is the register of A, advanced over len(B) zero bytes,
    xor the register of B.  So neighboring words are joined in pairs until one word is left.
    """
    # Leading zeros change nothing; "Td\x1fd" turns the register from 0 to its start, all ones.
    words = np.frombuffer(bytes(-len(data) % 4) + b"Td\x1fd" + data, "<u4")
    log = 2  # neighbors are 2**log bytes apart
    while len(words) > 1:
        words = np.pad(words, (len(words) % 2, 0))
        words = _advance(words[0::2], log) ^ words[1::2]
        log += 1
    crc = int(~_advance(words, 2)[0])
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _advance(registers: np.ndarray, log: int) -> np.ndarray:
    """Advance CRC registers (uint32, any shape) over 2**log zero bytes."""
    octets = np.ascontiguousarray(registers).view(np.uint8).reshape(*registers.shape, 4)
    tables = _zero_tables(log)
    advanced = tables[0][octets[..., 0]]
    for i in range(1, 4):
        advanced ^= tables[i][octets[..., i]]
    return advanced


@lru_cache
def _zero_tables(log: int) -> np.ndarray:
    """Return the tables (4, 256) of `_advance`, one row for each byte of a register."""
    if log > 0:
        return _advance(_zero_tables(log - 1), log - 1)
    first = np.arange(256, dtype="<u4")
    others = [first << np.uint32(shift) for shift in (0, 8, 16)]
    for _ in range(8):
        first = first >> 1 ^ (first & 1) * np.uint32(0x82F63B78)
    return np.stack([first, *others])

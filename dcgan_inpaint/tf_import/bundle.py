"""Reads a TensorFlow checkpoint ("tensor bundle") without TensorFlow.

The format is small and has been stable since 2016; TensorFlow is more than 500 MB and has no wheels
for every Python.  A bundle is `<prefix>.index` and `<prefix>.data-00000-of-00001`, ...  The index
is a LevelDB table: blocks of sorted (key, value) pairs, a block that says where those are, and a
footer that says where that one is.  The key "" holds a BundleHeaderProto, the name of a variable
its BundleEntryProto: dtype, shape and place in a data file.

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
DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # DataType of TensorFlow's types.proto


def find_bundle(path: str | Path) -> str:
    """The prefix of a checkpoint, given that prefix, its .index file or the folder it is in.

    Raises FileNotFoundError for a missing file, ValueError for a file `checkpoint` that names none.
    """
    prefix = str(path).removesuffix(".index")
    if Path(path).is_dir():
        latest = Path(path) / "checkpoint"
        if not latest.is_file():
            raise FileNotFoundError(f"{path}: no file named checkpoint in it; give a .index file")
        named = re.search(r'^model_checkpoint_path: "(.+)"', latest.read_text("latin1"), re.M)
        if named is None:
            raise ValueError(f"{latest}: names no checkpoint")
        # the last part alone: the folder may be one of the machine it was trained on
        prefix = str(Path(path) / re.split(r"[/\\]", named[1])[-1])
    if not Path(f"{prefix}.index").is_file():
        raise FileNotFoundError(
            f"{prefix}.index: no such file (a checkpoint of TensorFlow before 0.12 has none and is "
            "not read)"
        )
    return prefix


def read_bundle(prefix: str | Path) -> dict[str, np.ndarray]:
    """Variables by name: those of float32, float64, int32 and int64, others are left out.

    Lengths and checksums are verified.  Raises FileNotFoundError for a missing file, ValueError
    for one that is truncated, damaged or not part of a tensor bundle.
    """
    index = Path(f"{prefix}.index")
    try:
        entries = dict(_table(index.read_bytes()))
        header = dict(_fields(entries.pop(b"", b"")))  # num_shards = 1, endianness = 2
        shards, big_endian = int(header.get(1, 0)), header.get(2, 0)
        if shards < 1 or big_endian:
            raise ValueError("no header, or big-endian")
        variables = {key.decode(): _entry(value) for key, value in entries.items()}
    except (ValueError, IndexError, TypeError) as error:  # the last two: bytes that do not parse
        raise ValueError(f"{index}: truncated, or not a tensor bundle ({error})") from error
    return {
        name: _tensor(name, entry, f"{prefix}.data-{entry.shard:05d}-of-{shards:05d}")
        for name, entry in variables.items()
        if entry.dtype in DTYPES
    }


class _Entry(NamedTuple):
    """A BundleEntryProto; its fields are numbered from 1, and those that are 0 are not stored."""

    dtype: int
    shape: list[int]
    shard: int
    offset: int
    size: int
    crc32c: int


def _entry(message: bytes) -> _Entry:
    fields = dict(_fields(message))
    # TensorShapeProto: dim = 2, repeated; in each size = 1
    dims = [dict(_fields(dim)) for number, dim in _fields(fields.get(2, b"")) if number == 2]
    shape = [dim.get(1, 0) for dim in dims]
    return _Entry(int(fields.get(1, 0)), shape, *(int(fields.get(i, 0)) for i in range(3, 7)))


def _tensor(name: str, entry: _Entry, file: str) -> np.ndarray:
    dtype, count = np.dtype(DTYPES[entry.dtype]), math.prod(entry.shape)
    if count * dtype.itemsize != entry.size:
        raise ValueError(f"{file}: {name} of shape {entry.shape} has {entry.size} bytes")
    if not Path(file).is_file():
        raise FileNotFoundError(f"{file}: no such file; it belongs to the .index beside it")
    if entry.offset + entry.size > Path(file).stat().st_size:
        raise ValueError(f"{file}: truncated, {name} is not in it")
    values = np.fromfile(file, dtype, count, offset=entry.offset)
    if masked_crc32c(values.tobytes()) != entry.crc32c:
        raise ValueError(f"{file}: damaged, {name} has another checksum")
    return values.reshape(entry.shape)


def _table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) pairs of a LevelDB table, in order."""
    if data[-8:] != MAGIC:
        raise ValueError("no footer")
    _, at = _handle(data, len(data) - FOOTER)  # of the metaindex, which is empty
    index, _ = _handle(data, at)
    for _, value in _pairs(_block(data, *index)):
        yield from _pairs(_block(data, *_handle(value, 0)[0]))


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """A block's (offset, size), and where the next field starts."""
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(data: bytes, offset: int, size: int) -> bytes:
    """The contents of a block; behind it are 1 byte for the compression and 4 of checksum."""
    end = offset + size
    if masked_crc32c(data[offset : end + 1]) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise ValueError("a block has another checksum")
    if data[end] != 0:
        raise ValueError(f"compression {data[end]}; TensorFlow writes the index uncompressed")
    return data[offset:end]


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) pairs of a block; a key leaves out what it shares with the one before."""
    restarts = int.from_bytes(block[-4:], "little")  # places of whole keys, for binary search
    key, at = b"", 0
    while at < len(block) - 4 * (restarts + 1):
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of a protobuf message; a value is an int, or bytes where it has a length."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield tag >> 3, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"protobuf wire type {kind}")
        length, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
        chunk = data[at : at + length]
        yield tag >> 3, chunk if kind == 2 else int.from_bytes(chunk, "little")
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A little-endian base-128 integer, and where it ends.  Raises IndexError past the end."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (RFC 3720, B.4) under LevelDB's mask, about 100 MB/s.

    A CRC is linear: its register after A and B is A's, advanced over as many zeros as B is long,
    xor B's.  So neighbours are joined in pairs, all pairs at once, until one word is left.
    """
    # zeros in front change nothing; "Td\x1fd" takes the register from 0 to its start, all ones
    words = np.frombuffer(bytes(-len(data) % 4) + b"Td\x1fd" + data, "<u4")
    log = 2  # neighbours are 2**log bytes apart
    while len(words) > 1:
        words = np.pad(words, (len(words) % 2, 0))
        words = _advance(words[0::2], log) ^ words[1::2]
        log += 1
    crc = int(~_advance(words, 2)[0])
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _advance(registers: np.ndarray, log: int) -> np.ndarray:
    """CRC registers (uint32, any shape) after 2**log more zero bytes."""
    tables = _tables(log)
    octets = np.ascontiguousarray(registers).view(np.uint8).reshape(*registers.shape, 4)
    advanced = tables[0][octets[..., 0]]
    for i in range(1, 4):
        advanced ^= tables[i][octets[..., i]]
    return advanced


@lru_cache
def _tables(log: int) -> np.ndarray:
    """(4, 256): what each value of each byte of a register becomes after 2**log zero bytes."""
    if log > 0:
        return _advance(_tables(log - 1), log - 1)
    first = np.arange(256, dtype="<u4")
    others = [first << np.uint32(shift) for shift in (0, 8, 16)]
    for _ in range(8):
        first = first >> 1 ^ (first & 1) * np.uint32(0x82F63B78)
    return np.stack([first, *others])

"""Reading TensorFlow checkpoints, `NAME.index` beside `NAME.data-00000-of-00001`: plain arrays, without TensorFlow.

The index is a sorted table of LevelDB (blocks of keys that share prefixes) whose values are protocol buffers.
Sources: `table_format.txt` of google/leveldb; `tensor_bundle.proto` and `tensor_bundle.cc` of tensorflow/tensorflow.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

import google_crc32c
import numpy as np

from common.system.errors import UserError
from common.system.protobuf import fields, varint
from common.weights.containers.arrays import declare, widen

FOOTER_BYTES, MAGIC, TRAILER_BYTES = 48, 0xDB4775248B80FB57, 5
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 17: "<u2", 19: "<f2", 22: "<u4",
         23: "<u8"}  # fmt: skip
BFLOAT16 = 14  # numbers of `types.proto`; others, such as strings, are no arrays and are passed over
MAX_INDEX_BYTES = 2**26
MAX_NAME_BYTES, MAX_NAMES_BYTES = 2**12, 2**24  # names share what they begin with: few bytes may stand for any number
NAME_BYTES = 64  # that a name counts besides its own


class Entry(NamedTuple):
    """The place of a tensor."""

    dtype: np.dtype | None  # None: bfloat16
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int  # bytes
    checksum: int


class TensorBundle:
    """An open TensorFlow checkpoint, named by its `.index`; behind the face of containers.py."""

    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, path: Path):
        self.path = path
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise UserError(f"{path} has {path.stat().st_size:,} bytes, more than an index of names can have.")
        entries = dict(table(path.read_bytes()))
        header = dict(fields(entries.pop(b"")))
        self.num_shards = header[1]
        if header.get(2):
            raise UserError(f"{path} was written on a big-endian machine; convert it there.")
        self.entries = {name.decode(): entry for name, value in entries.items() if (entry := parse_entry(value))}
        self.declared = {name: declare(entry.shape, entry.dtype) for name, entry in self.entries.items()}

    def check_bytes(self) -> None:
        """Raise UserError where the index declares more than the files beside it hold."""
        for name, entry in self.entries.items():
            shard, width = self._shard(entry), 2 if entry.dtype is None else entry.dtype.itemsize
            if not shard.is_file():
                raise UserError(f"{self.path} belongs to {shard.name}, which is not beside it; download that, too.")
            if entry.size != self.declared[name].size * width or entry.offset + entry.size > shard.stat().st_size:
                raise UserError(f"{shard} is shorter than {self.path.name} declares at {name}; download both again.")

    def get(self, name: str) -> np.ndarray:
        """One array. UserError where its checksum is another."""
        entry = self.entries[name]
        with open(self._shard(entry), "rb") as file:
            file.seek(entry.offset)
            data = file.read(entry.size)
        if masked(google_crc32c.value(data)) != entry.checksum:
            raise UserError(f"{self._shard(entry)} is damaged at {name}: its checksum is another; download it again.")
        array = widen(np.frombuffer(data, "<u2")) if entry.dtype is None else np.frombuffer(data, entry.dtype)
        return array.reshape(entry.shape)

    def _shard(self, entry: Entry) -> Path:
        return self.path.with_name(f"{self.path.stem}.data-{entry.shard:05}-of-{self.num_shards:05}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a LevelDB table. ValueError where it is none."""
    footer = data[-FOOTER_BYTES:]
    if len(footer) < FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != MAGIC:
        raise ValueError("it does not end as an index does")
    numbers = varints(footer)
    next(numbers), next(numbers)  # the place of a block without use here
    left, names_left = len(data), MAX_NAMES_BYTES
    for _, place in block(data, next(numbers), next(numbers)):
        handle = varints(place)
        start, size = next(handle), next(handle)
        left -= size + TRAILER_BYTES
        if left < 0:
            raise ValueError("it names the same block again and again")
        for key, value in block(data, start, size):
            names_left -= len(key) + NAME_BYTES
            if names_left < 0:
                raise ValueError(f"its names are longer than {MAX_NAMES_BYTES:,} bytes, which no model's are")
            yield key, value


def block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of one block: each key begins like the one before."""
    content, (kind, checksum) = data[start : start + size], struct.unpack_from("<BI", data, start + size)
    if kind:
        raise ValueError("it is compressed, which TensorFlow's checkpoints are not")
    if masked(google_crc32c.value(data[start : start + size + 1])) != checksum:
        raise ValueError("the checksum of a block is another")
    end = len(content) - 4 * (1 + struct.unpack("<I", content[-4:])[0])
    key, place = b"", 0
    while place < end:
        shared, place = varint(content, place)
        fresh, place = varint(content, place)
        length, place = varint(content, place)
        if shared + fresh > MAX_NAME_BYTES:
            raise ValueError(f"one of its names has {shared + fresh:,} bytes")
        key = key[:shared] + content[place : place + fresh]
        yield key, content[place + fresh : place + fresh + length]
        place += fresh + length


def parse_entry(value: bytes) -> Entry | None:
    """The place of an array, from a BundleEntryProto; None where it is no array."""
    found = dict(fields(value))
    if found[1] != BFLOAT16 and found[1] not in TYPES:
        return None
    dtype = None if found[1] == BFLOAT16 else np.dtype(TYPES[found[1]])
    shape = tuple(dict(fields(dim)).get(1, 0) for number, dim in fields(found.get(2, b"")) if number == 2)
    return Entry(dtype, shape, found.get(3, 0), found.get(4, 0), found.get(5, 0), found.get(6, 0))


def varints(data: bytes) -> Iterator[int]:
    """Integers in a row."""
    place = 0
    while True:
        value, place = varint(data, place)
        yield value


def masked(checksum: int) -> int:
    """A CRC-32C as files keep it, lest a checksum of checksums be degenerate."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF

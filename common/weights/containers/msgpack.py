"""Reading `flax_model.msgpack`: nested maps of arrays, found without reading them and without creating any object.

Flax keeps an array as extension 1: a triple of shape, name of the type, and bytes. Other extensions are passed over.
Sources: `spec.md` of msgpack/msgpack; `serialization.py` of google/flax.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import numpy as np

from common.weights.containers import hub
from common.weights.containers.arrays import declare, widen

MAX_DEPTH, MAX_VALUES, MAX_TEXT_BYTES = 16, 50_000, 2**12
TYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)
ARRAY = 1  # the number of Flax's extension
# First byte -> (kind, bytes of the length that follows it, or of the value where there is none).
CODES = {0xC0: ("plain", 0), 0xC2: ("plain", 0), 0xC3: ("plain", 0), 0xCA: ("plain", 4), 0xCB: ("plain", 8)}
CODES |= {first + i: ("plain", 2**i) for first in (0xCC, 0xD0) for i in range(4)}
CODES |= {0xC4 + i: ("bytes", 2**i) for i in range(3)} | {0xC7 + i: ("extension", 2**i) for i in range(3)}
CODES |= {0xD9 + i: ("text", 2**i) for i in range(3)}
CODES |= {0xDC: ("list", 2), 0xDD: ("list", 4), 0xDE: ("map", 2), 0xDF: ("map", 4)}


class Entry(NamedTuple):
    """The place of an array."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


class Msgpack:
    """An open file; behind the face of containers.py, under PyTorch's names and in its layouts."""

    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, path: Path):
        self.path, self._entries, self.declared = path, {}, {}
        with open(path, "rb") as file:
            found = list(Reader(file, size := path.stat().st_size).arrays([], 0))
            if file.tell() != size:
                raise ValueError("more follows after its first value")
        for place, entry in found:
            name, axes = hub.from_flax(place, len(entry.shape))
            if name in self._entries:
                raise ValueError(f"it holds {name} twice")
            dtype = None if entry.dtype == "bfloat16" else np.dtype(entry.dtype)
            self._entries[name] = entry, axes
            self.declared[name] = declare(tuple(entry.shape[axis] for axis in axes), dtype)

    def check_bytes(self) -> None:
        """Each array was compared with the bytes that the file has of it when it was opened."""

    def get(self, name: str) -> np.ndarray:
        """One array."""
        entry, axes = self._entries[name]
        stored = np.dtype("<u2") if entry.dtype == "bfloat16" else np.dtype(entry.dtype).newbyteorder("<")
        array = np.fromfile(self.path, stored, math.prod(entry.shape), offset=entry.offset)
        array = widen(array) if entry.dtype == "bfloat16" else array
        return array.reshape(entry.shape).transpose(axes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Reader:
    """Reads one value after the other. ValueError for what a file of Flax has not."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size, self.left = file, size, MAX_VALUES

    def take(self, count: int) -> bytes:
        """The next bytes."""
        data = self.file.read(count)
        if len(data) != count:
            raise ValueError("it ends too early")
        return data

    def skip(self, count: int) -> None:
        """Pass over bytes."""
        if self.file.seek(count, 1) > self.size:
            raise ValueError("it ends too early")

    def head(self) -> tuple[str, int]:
        """(kind, length) of the next value: of bytes, or of values in a list or a map."""
        self.left -= 1
        if self.left < 0:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values, which no model has")
        code = self.take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return "number", code if code < 0x80 else code - 256
        if code < 0xC0:
            return ("map", code & 15) if code < 0x90 else ("list", code & 15) if code < 0xA0 else ("text", code & 31)
        if 0xD4 <= code <= 0xD8:
            return "extension", 2 ** (code - 0xD4)
        if code not in CODES:
            raise ValueError(f"the byte {code:#x} begins no value")
        kind, width = CODES[code]
        if kind == "plain":
            number = self.take(width)
            return ("number", int.from_bytes(number, "big")) if 0xCC <= code < 0xD0 else ("plain", 0)
        return kind, int.from_bytes(self.take(width), "big")

    def arrays(self, place: list[str], depth: int) -> Iterator[tuple[list[str], Entry]]:
        """(path, place) of every array in the next value."""
        kind, length = self.head()
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
        if kind == "map":
            for _ in range(length):
                yield from self.arrays([*place, self.text()], depth + 1)
        elif kind == "list":
            for i in range(length):
                yield from self.arrays([*place, str(i)], depth + 1)
        elif kind == "extension":
            number, end = self.take(1)[0], self.file.tell() + length
            if number == ARRAY and place:
                yield place, self.entry(end)
            self.skip(end - self.file.tell())
        elif kind in ("text", "bytes"):
            self.skip(length)

    def text(self) -> str:
        """The next value, a short text."""
        kind, length = self.head()
        if kind != "text" or length > MAX_TEXT_BYTES:
            raise ValueError("a name is no short text")
        return self.take(length).decode()

    def entry(self, end: int) -> Entry:
        """The array that ends at `end`."""
        if self.head() != ("list", 3):
            raise ValueError("an array is no triple of shape, type and bytes")
        kind, num_axes = self.head()
        sizes = [self.head() for _ in range(num_axes if kind == "list" else 0)]
        if kind != "list" or any(kind != "number" or size < 0 for kind, size in sizes):
            raise ValueError("the shape of an array is no list of sizes")
        shape, dtype = tuple(size for _, size in sizes), self.text()
        if dtype not in (*TYPES, "bfloat16"):
            raise ValueError(f"an array has the type {dtype!r}")
        kind, length = self.head()
        width = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        if kind != "bytes" or length != math.prod(shape) * width or self.file.tell() + length != end or end > self.size:
            raise ValueError("an array declares other bytes than it has")
        return Entry(shape, dtype, self.file.tell())

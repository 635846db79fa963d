"""`.safetensors` files, and models in several of them: a header of names, types, shapes and places, then the bytes.

Written here and not by the library, whose errors of a full disk are no OSError, whose files only their owner may read, and
which stores transposed arrays scrambled. Source: the format's section of huggingface/safetensors' README.
"""

import functools
import json
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import safetensors

from common.system.errors import UserError
from common.system.files import read_regular
from common.weights.containers.arrays import declare, same_in_file, widen

NUMPY = {"F16": "float16", "F32": "float32", "F64": "float64", "BOOL": "bool", "BF16": None}
NUMPY |= {f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)}
TYPES = {name: kind for kind, name in NUMPY.items() if name}
INDEX = ".safetensors.index.json"  # how the name ends of what lists the files of one model
MAX_INDEX_BYTES, MAX_SHARDS = 2**26, 1000


def fill(file: BinaryIO, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write a file of `arrays`."""
    arrays = aligned(arrays)
    file.write(header(arrays, metadata))
    file.writelines(in_order(array) for array in arrays.values())


def aligned(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same in an order in which each begins at a multiple of its type's size: the larger types first."""
    return dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))


def header(arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> bytes:
    """The header of a file with `arrays`, whose bytes follow in this order."""
    entries, start = {"__metadata__": metadata}, 0
    for name, array in arrays.items():
        place = [start, start := start + array.nbytes]
        entries[name] = {"dtype": TYPES[array.dtype.name], "shape": array.shape, "data_offsets": place}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def in_order(array: np.ndarray) -> np.ndarray:
    """The bytes of `array` in C order, little-endian: a view where they lie so already."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


class Safetensors:
    """An open file; the library checks that its header fits its size."""

    def __init__(self, path: Path):
        self.path = path
        self._file = safetensors.safe_open(path, framework="np")
        self.metadata = self._file.metadata() or {}
        self._types = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118
        unknown = {part.get_dtype() for part in self._types.values()} - NUMPY.keys()
        if unknown:
            raise UserError(f"{path} holds numbers of the types {sorted(unknown)}, expected {', '.join(NUMPY)}.")
        self.declared = {
            name: declare(tuple(part.get_shape()), self._dtype(name)) for name, part in self._types.items()
        }

    def _dtype(self, name: str) -> np.dtype | None:
        known = NUMPY[self._types[name].get_dtype()]
        return known and np.dtype(known)

    def check_bytes(self) -> None:
        """The library has compared header and size when it opened the file."""

    def get(self, name: str) -> np.ndarray:
        """One array."""
        if self._dtype(name) is not None:
            return self._file.get_tensor(name)
        array = np.fromfile(self.path, "<u2", self.declared[name].size, offset=self._places[name])
        return widen(array).reshape(self.declared[name].shape)

    def holds(self, name: str, array: np.ndarray) -> bool:
        """Whether the values of one are those of a contiguous `array`, bit for bit."""
        return same_in_file(self.path, self._places[name], array)

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """{name: where its bytes begin}."""
        with open(self.path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        return {name: 8 + length + header[name]["data_offsets"][0] for name in self.declared}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._file


class Sharded:
    """An open model in several files, named by the index that lists them; they lie beside it."""

    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, path: Path):
        self.path, listed = path, shards(path)
        self._files = {name: Safetensors(beside(path, name)) for name in dict.fromkeys(listed.values())}
        held = {}
        for file, shard in self._files.items():
            for name in shard.declared:
                if name in held or listed.get(name) != file:
                    expected = held.get(name) or listed.get(name, "no file")
                    raise UserError(
                        f"{path} expects {name} in {expected}, but {file} holds it; download the model again."
                    )
                held[name] = file
        missing = next((name for name in listed if name not in held), None)
        if missing:
            raise UserError(f"{path} expects {missing} in {listed[missing]}, which lacks it; download the model again.")
        self._shard = {name: self._files[file] for name, file in held.items()}
        self.declared = {name: shard.declared[name] for name, shard in self._shard.items()}

    def check_bytes(self) -> None:
        """The library has compared headers and sizes when it opened the files."""

    def get(self, name: str) -> np.ndarray:
        """One array."""
        return self._shard[name].get(name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.__exit__(*error)


def shards(path: Path) -> dict[str, str]:
    """{name of an array: file that holds it} of an index. UserError where it is none, ValueError where it is no JSON."""
    listed = json.loads(read_regular(path, MAX_INDEX_BYTES))
    listed = listed.get("weight_map") if isinstance(listed, dict) else None
    if not isinstance(listed, dict) or not listed or not all(isinstance(file, str) for file in listed.values()):
        raise UserError(f"{path} lists no arrays and their files under weight_map; download it again.")
    if len(set(listed.values())) > MAX_SHARDS:
        raise UserError(f"{path} lists more than {MAX_SHARDS:,} files, which no model has; download it again.")
    return listed


def beside(index: Path, name: str) -> Path:
    """The file of that name in the folder of an index. UserError for a path to elsewhere, or where it is missing."""
    if Path(name).name != name or "\0" in name or not name.endswith(".safetensors"):
        raise UserError(
            f"{index} names the file {name!r}, expected a .safetensors file in its own folder; do not use it."
        )
    if not index.with_name(name).is_file():
        raise UserError(f"{index} belongs to {name}, which is not beside it; download that, too.")
    return index.with_name(name)

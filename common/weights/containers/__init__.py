"""The kinds of files that hold arrays: `.npz`, `.safetensors`, `.h5` and, to be read, TensorFlow's and Flax's.

with open_container(path) as file:
    file.declared        {name: array of the declared shape and type that takes no memory}
    file.metadata        {name: text}
    file.check_bytes()   UserError where the file declares more than it has
    file.get(name)       the values of one
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.models import ResNetConfig
from common.models.family import Arrays
from common.system.errors import UserError, reason
from common.system.files import read_regular, write_atomically
from common.weights import foreign
from common.weights.containers import h5, npz, safetensors
from common.weights.containers.h5 import H5
from common.weights.containers.msgpack import Msgpack
from common.weights.containers.npz import Npz
from common.weights.containers.safetensors import INDEX, Safetensors, Sharded
from common.weights.containers.tensor_bundle import TensorBundle

SUFFIXES = (".npz", ".h5", ".hdf5", ".safetensors")
RECORD = h5.RECORD
KNOWN = ".npz or .h5 or .safetensors"  # for sentences
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".tar")
FILES = (*SUFFIXES, *PICKLES, *foreign.ENDINGS, ".index", ".msgpack", ".json")  # endings that no folder's name has
MAX_JSON_BYTES = 2**26


OPENERS = {".npz": Npz, ".safetensors": Safetensors, ".h5": H5, ".hdf5": H5, ".index": TensorBundle, INDEX: Sharded}
OPENERS |= {".msgpack": Msgpack}
NAMES = {".h5": "Keras .h5 weights file", ".hdf5": "Keras .h5 weights file", ".npz": ".npz file of plain arrays"}
NAMES |= {
    ".index": "TensorFlow checkpoint's index file",
    INDEX: "index of safetensors files",
    ".msgpack": "Flax .msgpack file",
}


def kind_of(path: Path) -> str:
    """The ending of the file that holds the arrays."""
    return INDEX if path.name.endswith(INDEX) else path.suffix


def open_container(path: Path) -> Npz | Safetensors | Sharded | H5 | TensorBundle | Msgpack:
    """The file `path`, open to be read. Raises UserError for a missing or damaged one, or one of another kind."""
    kind = kind_of(path)
    if kind in PICKLES:
        raise UserError(f"{path} is a pickle of PyTorch, which may run code; {foreign.IMPORT}.")
    if kind in foreign.ENDINGS:
        what, advice = foreign.ENDINGS[kind]
        raise UserError(f"{path} is {what}, expected {KNOWN}; {advice}.")
    if not path.is_file():
        there = "is no file" if path.exists() else "does not exist"
        raise UserError(f"The weights file {path} {there}; name an existing {KNOWN} file.")
    if kind not in OPENERS:
        raise UserError(f"The weights file {path} ends in {path.suffix!r}, expected {KNOWN}; convert it first.")
    return guarded(path, lambda: OPENERS[kind](path))


def guarded(path: Path, read: Callable[[], Any]) -> Any:
    """The result of `read`; any exception of a library for a damaged file becomes a UserError."""
    try:
        return read()
    except UserError:
        raise
    except Exception as error:  # zipfile, zlib, numpy, h5py and safetensors each have their own
        what, advice = foreign.contents(path) or (reason(error), "download it again")
        kind = NAMES.get(kind_of(path), f"{path.suffix} file")
        raise UserError(f"{path} is no readable {kind} ({what}); {advice}.") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. UserError for anything else."""
    try:
        value = json.loads(read_regular(path, MAX_JSON_BYTES))
        if not isinstance(value, dict):
            raise TypeError("it holds no object")
    except (OSError, ValueError, TypeError, RecursionError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is no readable JSON file ({why}); restore or remove it.") from error
    return value


def write(path: Path, published: Arrays, metadata: dict[str, str], bit: ResNetConfig | None = None) -> None:
    """Write `published` to `path`, whole or not at all, and read it back.

    `metadata` is not for `.npz`. With `bit`, an `.h5` is laid out as the original TF2 code of BiT does.
    """
    write_atomically(
        path,
        lambda file: fill(file, path.suffix, published, metadata, bit),
        lambda new: guarded(new, lambda: verify(new, path.suffix, published)),
    )


def fill(file, suffix: str, published: Arrays, metadata: dict[str, str], bit: ResNetConfig | None) -> None:
    """Write `published` to an open file."""
    if suffix == ".npz":
        npz.fill(file, published)
    elif suffix == ".safetensors":
        safetensors.fill(file, published, metadata)
    elif bit:
        h5.fill(file, published, bit)
    else:
        h5.fill_paths(file, published, metadata)


def verify(path: Path, suffix: str, published: Arrays) -> None:
    """Raise UserError where a file just written differs from what was to be written, in a type, a shape or a bit."""
    with OPENERS[suffix](path) as file:
        for name, array in published.items():
            declared = file.declared[name]
            if (declared.dtype, declared.shape) != (array.dtype, array.shape) or not file.holds(name, array):
                raise UserError(f"{path} differs from what was written to it at {name}; check the disk and save again.")

"""Reading `.npz` files of plain arrays: nothing in them is executed, and no more memory is taken than they account for."""

import zipfile
from pathlib import Path
from typing import Self

import numpy as np

from common.errors import UserError
from common.formats.arrays import declare, is_bfloat16, widen


class Npz:
    """An open `.npz` file; a context manager. UserError for one that declares more than it can hold."""

    metadata: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, path: Path):
        self.path = path
        with zipfile.ZipFile(path) as archive:
            stored = sum(entry.file_size for entry in archive.infolist())
        if stored > 1100 * path.stat().st_size + 2**20:  # deflate's best ratio is about 1,032
            raise UserError(f"{path} declares {stored:,} bytes, more than it can hold; download it again.")
        self._archive = np.load(path, allow_pickle=False)
        if isinstance(self._archive, np.ndarray):
            raise UserError(f"{path} is one array, not an .npz of named ones; save it with numpy.savez.")
        self._headers = {name: self._header(name) for name in self._archive.files}
        self.declared = {name: declare(*header) for name, header in self._headers.items()}

    def _header(self, name: str) -> tuple[tuple[int, ...], np.dtype]:
        with self._archive.zip.open(f"{name}.npy") as member:
            version = np.lib.format.read_magic(member)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, _, dtype = read_header(member)
        return shape, dtype

    def check_bytes(self) -> None:
        """Raise UserError for an array that declares more than the file has of it."""
        for name, (shape, dtype) in self._headers.items():
            stored = self._archive.zip.getinfo(f"{name}.npy").file_size
            size = declare(shape, dtype).size * dtype.itemsize
            if size > stored and not dtype.hasobject:  # numpy refuses objects
                raise UserError(f"{self.path} declares {size:,} bytes at {name} and has {stored:,}; download it again.")

    def get(self, name: str) -> np.ndarray:
        """One array."""
        array = self._archive[name]
        return widen(array) if is_bfloat16(array.dtype) else array

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

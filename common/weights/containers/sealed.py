"""Safetensors files with a digest: a SHA-256 over header and data, computed with its own 64 characters as zeros."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.system.errors import UserError
from common.system.files import open_regular
from common.weights.containers.safetensors import aligned, header, in_order

NO_DIGEST = "0" * 64
DIGEST = re.compile(rb'"sha256": "([0-9a-f]{64})"')
MAX_HEADER_BYTES = 2**24  # ours take about 150 bytes a tensor
BLOCK_BYTES = 2**20


def write(file: BinaryIO, arrays: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    """Write arrays to an open file, taking no memory but that of one array which is not contiguous."""
    arrays = aligned(arrays)
    text = header(arrays, {"sha256": NO_DIGEST} | metadata)
    digest = hashlib.sha256(text)
    for array in arrays.values():
        digest.update(in_order(array))
    file.write(text.replace(NO_DIGEST.encode(), digest.hexdigest().encode(), 1))
    for array in arrays.values():
        file.write(in_order(array))


def check(path: Path, kind: str = "file") -> bytes:
    """The header of the file `path`, a `kind`; UserError when its digest does not match its contents. Takes no memory."""
    try:
        with open_regular(path) as file:
            length = file.read(8)
            header = file.read(min(int.from_bytes(length, "little"), MAX_HEADER_BYTES))
            stated = DIGEST.search(header)
            if stated:
                digest = hashlib.sha256(length + header.replace(stated[1], NO_DIGEST.encode(), 1))
                for block in _blocks(file):
                    digest.update(block)
                if digest.hexdigest().encode() == stated[1]:
                    return header
    except OSError as error:
        raise UserError(f"The {kind} {path} cannot be read ({error.strerror or error}).") from error
    raise UserError(f"The {kind} {path} is damaged: its digest does not match its contents.")


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block

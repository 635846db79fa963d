"""Arrays as files declare them, before a value is read; and bfloat16, which numpy lacks."""

from pathlib import Path

import numpy as np

PIECE_BYTES = 2**20


def declare(shape: tuple[int, ...], dtype: np.dtype | None) -> np.ndarray:
    """An array of a shape and type that takes no memory; None and two-byte voids are bfloat16, read as float32."""
    dtype = np.dtype(np.float32) if dtype is None or is_bfloat16(dtype) else dtype
    return np.broadcast_to(np.zeros((), dtype), shape)  # one element, seen through strides of zero


def is_bfloat16(dtype: np.dtype) -> bool:
    """Whether a type is what `numpy.save` makes of bfloat16: two bytes without a meaning."""
    return dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None


def widen(array: np.ndarray) -> np.ndarray:
    """float32 of bfloat16, exactly: it is the upper half of a float32."""
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def same_in_file(path: Path, start: int, array: np.ndarray) -> bool:
    """Whether the bytes of a contiguous `array` stand at `start` in a file; read piece by piece into one buffer."""
    expected, buffer = array.reshape(-1).view(np.uint8), np.empty(PIECE_BYTES, np.uint8)
    with open(path, "rb") as file:
        file.seek(start)
        for first in range(0, expected.size, PIECE_BYTES):
            part = expected[first : first + PIECE_BYTES]
            if file.readinto(buffer[: part.size]) != part.size or not np.array_equal(buffer[: part.size], part):
                return False
    return True

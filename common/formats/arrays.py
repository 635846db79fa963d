"""Arrays as files declare them, before a value is read; and bfloat16, which numpy does not know."""

import numpy as np


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

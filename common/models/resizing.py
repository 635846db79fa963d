"""Resizing as a product with one matrix for each axis: of the kernel and the positions of a ViT (FlexiViT).

A matrix is a fact of two sizes: it is made once, in float64, and every engine multiplies by it in the type of what it resizes.
Sources: https://arxiv.org/abs/2212.08013; `models/proj/flexi/vit.py` of google-research/big_vision, whose matrix for kernels
is the float32 of `tf.image.resize` and has a pseudo-inverse in float32: 2e-7 away from this one.
"""

import functools

import numpy as np

Pair = tuple[int, int]
Matrices = tuple[np.ndarray, np.ndarray]  # float64 [new rows, old rows] and [new columns, old columns]


def linear(old: int, new: int, *, antialias: bool) -> np.ndarray:
    """float64 [new, old]: linear interpolation between the middles of pixels; with `antialias`, as wide as a new pixel."""
    width = max(1.0, old / new) if antialias else 1.0
    middles = (np.arange(new) + 0.5) * old / new - 0.5
    if not antialias:
        middles = middles.clip(0, old - 1)  # the outermost pixels go on for ever
    weights = (1 - np.abs(middles[:, None] - np.arange(old)) / width).clip(0)
    return weights / weights.sum(1, keepdims=True)


def cubic(old: int, new: int, *, antialias: bool, offset: float = 0.0) -> np.ndarray:
    """float64 [new, old]: cubic interpolation as `torch.nn.functional.interpolate` does it, without aligned corners.

    With `antialias` as wide as a new pixel, and another cubic; with an `offset`, as if there were so much more than `new`.
    """
    step = old / (new + offset)
    width, sharpness = (max(step, 1.0), -0.5) if antialias else (1.0, -0.75)
    middles = (np.arange(new)[:, None] + 0.5) * step - 0.5
    reach = int(np.ceil(2 * width)) + 1
    places = np.floor(middles).astype(int) + np.arange(-reach, reach + 1)
    far = np.abs(places - middles) / width
    near = ((sharpness + 2) * far - (sharpness + 3)) * far**2 + 1
    outer = sharpness * (((far - 5) * far + 8) * far - 4)
    weights = np.where(far <= 1, near, np.where(far < 2, outer, 0.0))
    if antialias:  # what lies outside counts for nothing; else the outermost pixels go on for ever
        weights = np.where((places >= 0) & (places < old), weights, 0.0)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new)[:, None], places.clip(0, old - 1)), weights)
    return matrix / matrix.sum(1, keepdims=True)


@functools.cache
def kernel_matrices(old: Pair, new: Pair) -> Matrices:
    """What makes a kernel for patches of `new` pixels of one for `old` pixels: the pseudo-inverse of resizing.

    A patch and its enlargement give the same token, and of a smaller patch the token comes as near as it can. The
    pseudo-inverse of a product over the axes is the product of theirs.
    """
    return tuple(read_only(np.linalg.pinv(linear(was, becomes, antialias=False).T)) for was, becomes in zip(old, new))


@functools.cache
def position_matrices(old: Pair, new: Pair) -> Matrices:
    """What makes positions for `new` rows and columns of patches of those for `old` ones, as `jax.image.resize` does."""
    return tuple(read_only(linear(was, becomes, antialias=True)) for was, becomes in zip(old, new))


def read_only(array: np.ndarray) -> np.ndarray:
    """The array, which is kept and given to many."""
    array.flags.writeable = False
    return array


def resized(values: np.ndarray, matrices: Matrices) -> np.ndarray:
    """`values` [rows, columns, ...] at another size, computed in float64, in their own type."""
    rows, columns = matrices
    return np.einsum("ai,bj,ij...->ab...", rows, columns, values, optimize=True).astype(values.dtype)

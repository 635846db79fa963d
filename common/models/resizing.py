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

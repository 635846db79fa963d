"""The resizing of kernels as big_vision computes it, in float32 and for both axes at once, to be put in the place of ours."""

import functools
import importlib
import json
from pathlib import Path

import numpy as np
from golden.golden_params import param

from common.models import resizing


def places(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixel before, pixel behind, share of the latter) of every new pixel, as `tf.image.resize` has them in float32."""
    at = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * (np.float32(old) / np.float32(new)) - np.float32(0.5)
    below = np.floor(at)
    return np.maximum(below, 0).astype(int), np.minimum(np.ceil(at), old - 1).astype(int), at - below


@functools.cache
def kernel_matrix(old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """float32 [rows', columns', rows, columns]: the pseudo-inverse of `tf.image.resize` of one image for each pixel."""
    images = np.eye(old[0] * old[1], dtype=np.float32).reshape(-1, *old)
    above, under, y = places(old[0], new[0])
    left, right, x = places(old[1], new[1])
    top = images[:, above][:, :, left] + (images[:, above][:, :, right] - images[:, above][:, :, left]) * x
    bottom = images[:, under][:, :, left] + (images[:, under][:, :, right] - images[:, under][:, :, left]) * x
    resize = (top + (bottom - top) * y[:, None]).reshape(len(images), -1)
    return np.linalg.pinv(resize).reshape(*new, *old)


@functools.cache
def is_rounded_alike() -> bool:
    """Whether this processor's LAPACK makes the pseudo-inverse, which is of float32, of the same bits as the goldens'."""
    golden = json.loads(
        (Path(__file__).parent / "golden/bv_flexivit/resample_patchemb_16x16_to_12x12.json").read_text()
    )
    kernel = param("embedding/kernel", golden["params"]["embedding/kernel"]).astype(np.float32).astype(float)
    found = np.einsum("abij,ijco->abco", kernel_matrix((16, 16), (12, 12)).astype(float), kernel)
    return np.abs(found - golden["outputs"]["kernel_resized"]["data"]).max() < 1e-14


def kernel_matrices(old: tuple[int, int], new: tuple[int, int]) -> tuple[np.ndarray, None]:
    """What `resized` below takes instead of a matrix for each axis."""
    return kernel_matrix(old, new), None


def use(engine, monkeypatch) -> None:
    """Let an engine resize kernels as big_vision does, in its own float64."""
    layers, einsum = (
        importlib.import_module(f"{engine.name}.layers"),
        importlib.import_module(EINSUM[engine.name]).einsum,
    )
    ours = layers.resized

    def resized(x, matrices):
        both, none = matrices
        return ours(x, matrices) if none is not None else einsum("abij,ij...->ab...", engine.raw(both.astype(float)), x)

    monkeypatch.setattr(resizing, "kernel_matrices", kernel_matrices)
    monkeypatch.setattr(layers, "resized", resized)


EINSUM = {"bit_pytorch": "torch", "bit_jax": "jax.numpy", "bit_tf2": "tensorflow"}

"""The names of `tf_model.h5` and `flax_model.msgpack`, which transformers wrote until version 4, as its PyTorch names.

Sources: `modeling_tf_pytorch_utils.py` and `modeling_flax_pytorch_utils.py` of huggingface/transformers, version 4.
"""

import re
from collections.abc import Iterable

LEAVES = {"kernel": "weight", "embeddings": "weight", "embedding": "weight", "gamma": "weight", "scale": "weight",
          "beta": "bias"}  # fmt: skip
KERNELS = {2: (1, 0), 4: (3, 2, 0, 1)}  # number of axes -> [in, out] as [out, in], HWIO as OIHW
Axes = tuple[int, ...]


def is_tensorflow(names: Iterable[str]) -> bool:
    """Whether variables of these names are a model's of transformers."""
    return any(name.startswith("tf_") or "_._" in name for name in names)


def from_tensorflow(name: str, num_axes: int) -> tuple[str, Axes]:
    """(PyTorch's name, order of its axes) of a variable: `model/vit/encoder/layer_._0/output/dense/kernel:0`."""
    parts = re.sub(r"/[^/]*___([^/]*)/", r"/\1/", name.removesuffix(":0")).replace("_._", "/").split("/")
    return from_flax([part for part in parts[1:] if part], num_axes)


def from_flax(path: list[str], num_axes: int) -> tuple[str, Axes]:
    """The same of a path in a tree: `vit`, `encoder`, `layer`, `0`, `output`, `dense`, `kernel`."""
    *parts, leaf = path[1:] if path[0] == "params" else path
    is_kernel = leaf == "kernel" and num_axes in KERNELS
    return ".".join([*parts, LEAVES.get(leaf, leaf)]), KERNELS[num_axes] if is_kernel else tuple(range(num_axes))

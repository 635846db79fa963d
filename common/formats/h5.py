"""Keras `.h5` weights of the original TF2 code, read and written by the order of their names.

The names inside depend on how the Keras model was built; their order and shapes do not. Only plain data sets of this
very file are read: links to other places and virtual storage are refused.
"""

from pathlib import Path

import h5py
import numpy as np

from common import weights
from common.errors import UserError
from common.files import write_atomically
from common.formats import bit
from common.models import ResNetConfig


def read(path: Path, config: ResNetConfig) -> dict[str, np.ndarray]:
    """Canonical arrays of `path`; UserError lists what does not fit the model."""
    try:
        with h5py.File(path, "r") as file:
            found = _ordered_arrays(file, path)
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{path} is no readable Keras .h5 weights file ({error}); download it again.") from error
    expected = [name for names in bit.layers(config).values() for name in names]
    if len(found) != len(expected):
        raise UserError(
            f"{path} holds {len(found)} tensors, the model has {len(expected)}; choose the --model that the file was made for."
        )
    arrays = {name: array for name, (_, array) in zip(expected, found)}
    if arrays["head/kernel"].ndim == 2:
        config = weights.with_classes(config, arrays["head/kernel"].shape[1])
    weights.check_shapes(arrays, config.parameter_shapes(), path)
    return {name: arrays[name] for name in config.parameter_shapes()}


def _ordered_arrays(file: h5py.File, path: Path) -> list[tuple[str, np.ndarray]]:
    found, remaining = [], path.stat().st_size
    for layer in file.attrs["layer_names"]:
        group = _follow(file, _text(layer), path)
        for weight in group.attrs["weight_names"]:
            name = f"{_text(layer)}/{_text(weight)}"
            dataset = _follow(group, _text(weight), path)
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise UserError(f"{path} keeps {name} outside of itself; only plain data sets are read.")
            remaining -= dataset.nbytes
            if remaining < 0 and dataset.compression is None:
                raise UserError(f"{path} declares more bytes at {name} than it can hold; download it again.")
            found.append((name, dataset[()]))
    return found


def _follow(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset:
    for part in name.split("/"):
        if not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise UserError(f"{path} holds a link instead of data at {name}; only plain data sets are read.")
        group = group[part]
    return group


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def write(path: Path, arrays: dict[str, np.ndarray], config: ResNetConfig) -> None:
    """Write the groups, names and order that the original TF2 code wrote, and read them back."""
    published = bit.names(config)

    def fill(file) -> None:
        with h5py.File(file, "w") as target:
            table = bit.layers(config)
            target.attrs["layer_names"] = np.array([layer.encode() for layer in table])
            target.attrs["backend"] = b"tensorflow"
            for layer, names in table.items():
                group = target.create_group(layer)
                names_there = [f"{published[name].replace('head/conv2d', 'head/dense')}:0" for name in names]
                group.attrs["weight_names"] = np.array([name.encode() for name in names_there], "S") if names else np.zeros(0)
                for name, there in zip(names, names_there):
                    group.create_dataset(there, data=np.ascontiguousarray(arrays[name]))

    def verify(new: Path) -> None:
        with h5py.File(new, "r") as file:
            found = dict(zip([n for names in bit.layers(config).values() for n in names], _ordered_arrays(file, new)))
        weights._verify({name: array for name, (_, array) in found.items()}, arrays, new)

    write_atomically(path, fill, verify)

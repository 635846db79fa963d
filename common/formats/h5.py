"""Keras `.h5` weights of the original TF2 code, read and written by the order of their names.

The names inside depend on how the Keras model was built; their order and shapes do not. Only plain data sets of this
very file are read: links to other places and virtual storage are refused.
"""

from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from common import weights
from common.errors import UserError
from common.files import write_atomically
from common.formats import bit
from common.models import ResNetConfig

MAX_DEPTH = 16  # of groups within groups
MAX_RATIO = 1100  # of data to file; deflate's best is about 1,032


def read(path: Path, config: ResNetConfig) -> dict[str, np.ndarray]:
    """Canonical arrays of `path`; UserError lists what does not fit the model, before any value is read."""
    expected = [name for names in bit.layers(config).values() for name in names]
    try:
        with h5py.File(path, "r") as file:
            found = _ordered_datasets(file, path)
            if len(found) != len(expected):
                raise UserError(
                    f"{path} holds {len(found)} tensors, the model has {len(expected)}; "
                    "choose the --model that the file was made for."
                )
            datasets = dict(zip(expected, found))
            if datasets["head/kernel"].ndim == 2:
                config = weights.with_classes(config, datasets["head/kernel"].shape[1])
            weights.check_shapes(datasets, config.parameter_shapes(), path)
            weights.check_floating(datasets, path)
            check_bytes(found, path)
            return {name: datasets[name][()] for name in config.parameter_shapes()}
    except UserError:
        raise
    except Exception as error:  # h5py raises whatever lies nearest to the damage
        raise UserError(f"{path} is no readable Keras .h5 weights file ({error}); download it again.") from error


def _ordered_datasets(file: h5py.File, path: Path) -> list[h5py.Dataset]:
    found = []
    for layer in file.attrs["layer_names"]:
        group = _follow(file, _text(layer), path)
        for weight in group.attrs["weight_names"]:
            dataset = _follow(group, _text(weight), path)
            if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
                raise UserError(
                    f"{path} keeps {_text(layer)}/{_text(weight)} outside of itself; only plain data sets are read."
                )
            found.append(dataset)
    return found


def published_datasets(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """{published name: data set} of a file of the original TF2 code, whose sizes tell the order of its names."""
    found = _ordered_datasets(file, path)
    layers = [_text(layer) for layer in file.attrs["layer_names"]]
    counts = [sum(data.shape[:2] == (3, 3) for data in found if data.name.startswith(f"/{layer}/")) for layer in layers]
    units = tuple(count for layer, count in zip(layers, counts) if layer.startswith("block"))
    config = ResNetConfig(units, found[0].shape[-1] / 64, found[-1].shape[-1])
    published = bit.names(config)
    expected = [published[name] for names in bit.layers(config).values() for name in names]
    if len(expected) != len(found):
        raise UserError(f"{path} holds {len(found)} tensors, and a BiT of its blocks has {len(expected)}.")
    return dict(zip(expected, found))


def all_datasets(group: h5py.Group, path: Path) -> Iterator[tuple[str, h5py.Dataset]]:
    """(path within the file, data set) of every data set of a file."""
    for name in group:
        member = _follow(group, name, path)
        if isinstance(member, h5py.Group):
            if member.name.count("/") > MAX_DEPTH:
                raise UserError(f"{path} nests groups more than {MAX_DEPTH} deep; it holds no model.")
            yield from all_datasets(member, path)
        else:
            _check_plain(member, path)
            yield member.name.lstrip("/"), member


def _check_plain(dataset: h5py.Dataset, path: Path) -> None:
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise UserError(f"{path} keeps {dataset.name} outside of itself; only plain data sets are read.")


def check_bytes(datasets: list[h5py.Dataset], path: Path) -> None:
    """Raise UserError where data sets declare more than the file can hold."""
    remaining = path.stat().st_size
    for dataset in datasets:
        remaining -= dataset.nbytes // (1 if dataset.compression is None else MAX_RATIO)
        if remaining < 0:
            raise UserError(f"{path} declares more bytes at {dataset.name} than it can hold; download it again.")


def _follow(group: h5py.Group, name: str, path: Path) -> h5py.Group | h5py.Dataset:
    for part in name.split("/"):
        link = group.get(part, getlink=True)
        if link is None:
            raise UserError(f"{path} lacks {name}, which its own list names; download it again.")
        if not isinstance(link, h5py.HardLink):
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
                group.attrs["weight_names"] = (
                    np.array([name.encode() for name in names_there], "S") if names else np.zeros(0)
                )
                for name, there in zip(names, names_there):
                    group.create_dataset(there, data=np.ascontiguousarray(arrays[name]))

    def verify(new: Path) -> None:
        weights._verify(read(new, config), arrays, new)

    write_atomically(path, fill, verify)

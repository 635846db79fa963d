"""`.h5` files: names as paths, Keras's of a zoo's model, the hub's, or BiT's, read and written by the order of their names.

The names in BiT's depend on how the Keras model was built; their order and shapes do not. Only plain data sets of a file
itself are read: links to other places and virtual storage are refused.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

import h5py
import numpy as np

from common.models import ResNetConfig
from common.models.family import Arrays
from common.system.errors import UserError
from common.weights.containers import hub
from common.weights.containers.arrays import declare
from common.weights.spellings import bit, keras, keras_hub

RECORD = "bit_zoo"  # the metadata in which our own files keep the configuration, as JSON
MAX_RECORD_BYTES = 2**20  # of a configuration
MAX_DEPTH = 16  # of groups within groups
MAX_NAMES = 10_000  # of data sets and groups: many links to one make few bytes any number of them
MAX_RATIO = 1100  # of data to file; deflate's best is about 1,032


class H5:
    """An open `.h5` file: our own, with names as paths; BiT's, under its published names; or Keras's of a zoo's model."""

    def __init__(self, path: Path):
        self.path = path
        self._file, self._axes, self._beside = h5py.File(path, "r"), {}, None
        try:
            if "layer_names" in self._file.attrs:
                self._read_lists()
            else:
                self._datasets = dict(all_datasets(self._file, path))
            self.metadata = {RECORD: str(self._file.attrs[RECORD])} if RECORD in self._file.attrs else {}
            if keras_hub.is_hub(self._datasets):
                self._read_hub()
            elif keras.is_keras(self._datasets):
                self.metadata |= self._keras_record()
                self._datasets = keras.renamed(self._datasets, path)
            self.declared = {name: declare(self._shape(name), data.dtype) for name, data in self._datasets.items()}
        except BaseException:
            self.close()
            raise

    def _read_lists(self) -> None:
        """Find the data sets of a file of Keras 2: BiT's, or one of the hub, whose kernels lie as PyTorch's then."""
        found = listed_datasets(self._file, self.path)
        if not hub.is_tensorflow(name for name, _ in found):
            self._datasets = published_datasets(self._file, [data for _, data in found], self.path)
            return
        self._datasets = {}
        for name, data in found:
            there, axes = hub.from_tensorflow(name, data.ndim)
            if there in self._datasets:
                raise UserError(f"{self.path} holds {there} twice; download it again.")
            self._datasets[there], self._axes[there] = data, axes

    def _read_hub(self) -> None:
        """Number what KerasHub leaves without, and find the head of a classifier in the file beside."""
        beside = self.path.with_name("task.weights.h5")
        if self.path.name == "model.weights.h5" and beside.is_file():
            self._beside = h5py.File(beside, "r")
            found = all_datasets(self._beside, beside)
            self._datasets |= {f"{keras_hub.TASK}{name}": data for name, data in found}
        self._datasets = {keras_hub.numbered(name): data for name, data in self._datasets.items()}
        for name, data in self._datasets.items():
            if keras_hub.is_ids(name) and data.size <= MAX_NAMES and (data[()] != np.arange(data.size)).any():
                raise UserError(
                    f"{self.path} has other numbers of positions than 0, 1, 2 ... at {name}, as KerasHub's CLIP has that was "
                    "not converted from another, so that all its patches have one position; no ViT here is such a model."
                )

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = self._datasets[name].shape
        return tuple(shape[axis] for axis in self._axes[name]) if name in self._axes else shape

    def _keras_record(self) -> dict[str, str]:
        """The record that a model of `bit_tf2` writes beside its arrays, as metadata."""
        record = self._datasets.get(keras.RECORD)
        if record is None:
            return {}
        if record.dtype != np.uint8 or record.nbytes > MAX_RECORD_BYTES:
            raise UserError(f"{self.path} holds a record of its model that is no text; save it again.")
        check_bytes([record], self.path)
        return {RECORD: record[()].tobytes().decode()}

    def check_bytes(self) -> None:
        """Raise UserError where data sets declare more than the file can hold."""
        check_bytes(list(self._datasets.values()), self.path)

    def get(self, name: str) -> np.ndarray:
        """One array."""
        array = self._datasets[name][()]
        return array.transpose(self._axes[name]) if name in self._axes else array

    def holds(self, name: str, array: np.ndarray) -> bool:
        """Whether the values of one are those of `array`, bit for bit."""
        return self.get(name).tobytes() == array.tobytes()

    def __enter__(self) -> Self:
        return self

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._beside:
            self._beside.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class Budget:
    """The number of names that may still be read of a file, whose links may lead to the same groups again and again."""

    def __init__(self, path: Path):
        self.path, self.left = path, MAX_NAMES

    def spend(self) -> None:
        """Count one. UserError where there are too many."""
        self.left -= 1
        if self.left < 0:
            raise UserError(f"{self.path} holds more than {MAX_NAMES:,} names, which no model has; do not use it.")


def listed_datasets(file: h5py.File, path: Path) -> list[tuple[str, h5py.Dataset]]:
    """(name, data set) of all that the lists of a file of Keras 2 name, in their order. UserError for too many, or links."""
    found, budget = [], Budget(path)
    for layer in file.attrs["layer_names"]:
        group = _follow(file, _text(layer), path)
        budget.spend()
        for weight in group.attrs["weight_names"]:
            budget.spend()
            dataset = _follow(group, _text(weight), path)
            _check_plain(dataset, path)
            found.append((_text(weight), dataset))
    return found


def published_datasets(file: h5py.File, found: list[h5py.Dataset], path: Path) -> dict[str, h5py.Dataset]:
    """{published name: data set} of those found in a file of the original TF2 code, whose sizes give the order of names.

    UserError where their number is another.
    """
    layers = [_text(layer) for layer in file.attrs["layer_names"]]
    counts = [sum(data.shape[:2] == (3, 3) for data in found if data.name.startswith(f"/{layer}/")) for layer in layers]
    units = tuple(count for layer, count in zip(layers, counts) if layer.startswith("block"))
    classes = found[-1].shape[-1] if any("head" in layer for layer in layers) else None
    config = ResNetConfig(units, found[0].shape[-1] / 64, classes)
    published = bit.names(config)
    expected = [published[name] for names in bit.layers(config).values() for name in names]
    if len(expected) != len(found):
        raise UserError(f"{path} holds {len(found)} tensors, the model has {len(expected)}; download it again.")
    return dict(zip(expected, found))


def all_datasets(group: h5py.Group, path: Path, budget: Budget | None = None) -> Iterator[tuple[str, h5py.Dataset]]:
    """(path within the file, data set) of every data set of a file. UserError for too many names, or groups too deep."""
    budget = budget or Budget(path)
    for name in group:
        budget.spend()
        member = _follow(group, name, path)
        if isinstance(member, h5py.Group):
            if member.name.count("/") > MAX_DEPTH:
                raise UserError(f"{path} nests groups more than {MAX_DEPTH} deep; it holds no model.")
            yield from all_datasets(member, path, budget)
        else:
            _check_plain(member, path)
            yield member.name.lstrip("/"), member


def _check_plain(dataset: h5py.Dataset, path: Path) -> None:
    if isinstance(dataset, h5py.Dataset) and dataset.shape is None:
        raise UserError(f"{path} holds nothing at {dataset.name}; download it again.")
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


def fill(file: BinaryIO, published: Arrays, config: ResNetConfig) -> None:
    """Write the groups, names and order that the original TF2 code wrote, from arrays under their published names."""
    names = bit.names(config)
    with h5py.File(file, "w") as target:
        table = bit.layers(config)
        target.attrs["layer_names"] = np.array([layer.encode() for layer in table])
        target.attrs["backend"] = b"tensorflow"
        for layer, ours in table.items():
            group = target.create_group(layer)
            there = {names[name]: f"{names[name].replace('head/conv2d', 'head/dense')}:0" for name in ours}
            encoded = [name.encode() for name in there.values()]
            group.attrs["weight_names"] = np.array(encoded, "S") if encoded else np.zeros(0)
            for name, path in there.items():
                group.create_dataset(path, data=published[name])


def fill_paths(file: BinaryIO, published: Arrays, metadata: dict[str, str]) -> None:
    """Write arrays to an open file under their names as paths."""
    with h5py.File(file, "w") as target:
        target.attrs.update(metadata)
        for name, array in keras_hub.in_file(published) if keras_hub.is_hub(published) else published.items():
            target.create_dataset(name, data=array)

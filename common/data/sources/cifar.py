"""CIFAR-10 and CIFAR-100 from their official binary archives: fixed-size records, no pickle.

Source and format: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import dataclasses
from pathlib import Path

import numpy as np

from common.data.lists import lines
from common.data.prepare import prepared_folder
from common.data.sources import Places
from common.data.split import Dataset, Split
from common.system.errors import UserError

SIDE_PX = 32
PIXEL_BYTES = 3 * SIDE_PX * SIDE_PX  # red, green and blue planes, each row by row


@dataclasses.dataclass(frozen=True)
class Layout:
    """The files of one archive. A record is `label_bytes` labels, the last of which is ours, and the pixels."""

    folder: str
    num_classes: int
    label_bytes: int
    class_names: str
    splits: dict[str, tuple[str, ...]]


LAYOUTS = {
    "cifar10": Layout(
        "cifar-10-batches-bin",
        10,
        1,
        "batches.meta.txt",
        {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
    ),
    # Two label bytes: the superclass (20 of them, unused here), then the fine class.
    "cifar100": Layout(
        "cifar-100-binary", 100, 2, "fine_label_names.txt", {"train": ("train.bin",), "test": ("test.bin",)}
    ),
}


def open_cifar(name: str, places: Places) -> Dataset:
    """`cifar10` or `cifar100`, examples in the order of the official files.

    Pixels are uint8 [32, 32, 3]; they are held in memory (184 MB). Raises UserError when one is missing or damaged.
    """
    layout = LAYOUTS[name]
    folder = prepared_folder(name, places.datadir) / layout.folder
    class_names = _class_names(folder / layout.class_names, layout.num_classes)
    return Dataset(name, class_names, {split: _split(folder, own, layout) for split, own in layout.splits.items()})


def _class_names(path: Path, num_classes: int) -> tuple[str, ...]:
    names = tuple(line for _, line in lines(path))
    if len(names) != num_classes:
        raise UserError(f"{path} names {len(names)} classes, expected {num_classes}; {_again(path)}")
    return names


def _split(folder: Path, files: tuple[str, ...], layout: Layout) -> Split:
    records = np.concatenate([_records(folder / file, layout) for file in files])  # uint8 [N, labels and pixels]
    labels = records[:, layout.label_bytes - 1].astype(np.int32)

    def read(i: int) -> np.ndarray:
        planes = records[i, layout.label_bytes :].reshape(3, SIDE_PX, SIDE_PX)
        return np.ascontiguousarray(planes.transpose(1, 2, 0))

    return Split(read, labels, lambda i: f"{i} of {', '.join(files)} in {folder}", forks=True)


def _records(path: Path, layout: Layout) -> np.ndarray:
    """uint8 [N, record bytes] of one file, checked."""
    record_bytes = layout.label_bytes + PIXEL_BYTES
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {_again(path)}") from error
    if not data.size or data.size % record_bytes:
        raise UserError(
            f"{path} holds {data.size:,} bytes, expected a whole number of {record_bytes}-byte records; {_again(path)}"
        )
    records = data.reshape(-1, record_bytes)
    highest = records[:, layout.label_bytes - 1].max()
    if highest >= layout.num_classes:
        raise UserError(f"{path} holds the label {highest}, expected less than {layout.num_classes}; {_again(path)}")
    return records


def _again(path: Path) -> str:
    return f"remove {path.parent.parent} and prepare the dataset again."

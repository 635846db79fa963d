"""`torchvision:NAME`: the one source of images that only this engine has."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np

from common.data import images
from common.data.sources import Places
from common.data.split import Dataset, Split
from common.system.errors import UserError, nearest, reason

SPLITS = {
    "train": ("train", "trainval"),
    "val": ("val", "valid"),
    "test": ("test",),
}  # ours -> theirs, first that exists


def open_torchvision(name: str, places: Places) -> Dataset:
    """The class `torchvision.datasets.NAME`, which downloads to `places.datadir` where it can.

    Raises UserError for an unknown class, or one that cannot be read as labelled images.
    """
    from torchvision import datasets

    known = [member for member in datasets.__all__ if inspect.isclass(getattr(datasets, member))]
    if name not in known:
        raise UserError(f"torchvision.datasets has no class {name!r}{nearest(name, known)} See its documentation.")
    found = _splits(getattr(datasets, name), name, places.datadir)
    labels = {split: _labels(dataset) for split, dataset in found.items()}
    count = 1 + max(int(values.max()) for values in labels.values())
    class_names = tuple(map(str, getattr(found["train"], "classes", range(count))))
    return Dataset(name, class_names, {split: _split(found[split], labels[split], name) for split in found})


def _splits(dataset_class: type, name: str, datadir: Path) -> dict[str, Any]:
    parameters = inspect.signature(dataset_class).parameters
    options = {"root": str(datadir)} if "root" in parameters else {}
    options |= {"download": True} if "download" in parameters else {}
    try:
        if "train" in parameters:
            return {split: dataset_class(train=split == "train", **options) for split in ("train", "test")}
        if "split" not in parameters:
            return {"train": dataset_class(**options)}
        found = {ours: _first(dataset_class, theirs, options) for ours, theirs in SPLITS.items()}
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"torchvision.datasets.{name} cannot be opened in {datadir} ({reason(error)}); prepare it there."
        ) from error
    if found["train"] is None:
        raise UserError(f"torchvision.datasets.{name} has no split called train; use a dataset that has one.")
    return {split: dataset for split, dataset in found.items() if dataset is not None}


def _first(dataset_class: type, names: tuple[str, ...], options: dict):
    for name in names:
        try:
            return dataset_class(split=name, **options)
        except ValueError:  # how torchvision refuses a split that the dataset does not have
            continue
    return None


def _labels(dataset) -> np.ndarray:
    for attribute in ("targets", "labels", "_labels"):
        if hasattr(dataset, attribute):
            return np.asarray(getattr(dataset, attribute), np.int32)
    return np.array([dataset[i][1] for i in range(len(dataset))], np.int32)  # decodes every image, once


def _split(dataset, labels: np.ndarray, name: str) -> Split:
    return Split(lambda i: images.to_rgb(dataset[i][0]), labels, lambda i: f"{i} of torchvision.datasets.{name}")

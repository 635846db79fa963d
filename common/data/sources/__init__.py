"""The sources of images and labels: one file for each kind of place, whose functions all are `open(name, places)`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from common.data.split import Dataset


class Places(NamedTuple):
    """The places where a source may look."""

    datadir: Path = Path("data")  # prepared datasets, one folder each
    tfds_data_dir: str | Path | None = None  # sets of TFDS; None: TFDS_DATA_DIR, else ~/tensorflow_datasets
    open_torchvision: Callable[[str, "Places"], Dataset] | None = None  # of the engine that has torchvision


Opener = Callable[[str, Places], Dataset]  # UserError where there is no such dataset, or files are missing or broken

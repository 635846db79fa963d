"""`parquet:PATH`: parquet files as Hugging Face `datasets` writes them, at random access; read by pyarrow, the extra `parquet`.

A row has an image, a column of structures whose `bytes` are those of an image file, and a label. The metadata that
`datasets` leaves name the columns and the classes; without them, columns are found by their types and names. No path
within a file is ever opened, and no value is ever unpickled.

What `datasets` writes today leaves images uncompressed, so that each is read by its offset. Where a column is compressed,
or encoded otherwise, a row group is read at once, and those used last are kept.
"""

import errno
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.data.blocks import Blocks
from common.data.sources import Places
from common.data.sources.index import Arrays, indexed
from common.data.sources.parquet_columns import broken, footer, images_of, import_pyarrow, scan
from common.data.sources.parquet_pages import BrokenColumn
from common.data.sources.shards import Opened, find_shards, keep_open
from common.data.sources.told import arrays_of_splits, dataset_of, split_of_rows
from common.data.split import Dataset
from common.system.errors import printable, reason
from common.system.files import open_regular

PREFIX = "parquet:"
KEPT_BYTES = 2**28  # of row groups in memory that must be read at once


def open_parquet(name: str, places: Places) -> Dataset:
    """The files that `name` means, see `find_shards`; examples in the order of the files.

    Raises UserError for a file that is cut off or no parquet, for one without images or labels, for a row without the bytes
    of its image, and where pyarrow is missing.
    """
    del places  # the name says where they are
    import_pyarrow()
    shards = find_shards(PREFIX, name, ".parquet")
    arrays = indexed(shards.folder, shards.watched, lambda _: scan(shards), shards.purpose("parquet"))
    splits = {}
    for split, own in arrays_of_splits(shards, arrays).items():
        rows = Rows(shards.splits[split], own, arrays["image"].tobytes().decode())
        splits[split] = split_of_rows(rows, own, rows.blocks)
    return dataset_of(PREFIX, shards, arrays, splits)


class Rows:
    """The images of one split: where the bytes of each lie, or in which row group."""

    def __init__(self, paths: list[Path], arrays: Arrays, image: str):
        """`footer` uint32 of each file; `file`, `group` int32 and `first` int64 of each row group and one more; `start` and
        `size` int64 [N], -1 where the group must be read; `image` is the column.
        """
        self.paths, self.arrays, self.image = paths, arrays, image
        self.opened = keep_open(paths, check=self.check)
        groups = np.diff(arrays["first"])
        self.group_of_row = np.repeat(np.arange(len(groups), dtype=np.int32), groups)
        self.forks = bool((arrays["start"] >= 0).all())  # else each process would read every row group
        if self.forks:
            self.blocks, most = Blocks.of_bytes(arrays["file"][self.group_of_row], arrays["start"]), 1
        else:
            most = int(max(2, KEPT_BYTES // max(1, arrays["unpacked"].mean())))
            self.blocks = Blocks(self.group_of_row, most // 2)  # the next ones begin while the last are still in use
        self.column = Latest(self.read_group, most)

    def read(self, i: int) -> bytes:
        """The bytes of example `i`, in any thread. Raises OSError where its file is not what was indexed."""
        group, start, size = self.group_of_row[i], int(self.arrays["start"][i]), int(self.arrays["size"][i])
        if start < 0:
            return self.column(int(group))[i - int(self.arrays["first"][group])]
        data = self.opened(int(self.arrays["file"][group])).read(start - 4, 4 + size)
        if len(data) < 4 + size or int.from_bytes(data[:4], "little") != size:
            raise changed()
        return data[4:]

    def read_group(self, group: int) -> list[bytes]:
        """The image files of one row group."""
        number, rows = int(self.arrays["file"][group]), int(np.diff(self.arrays["first"])[group])
        self.opened(number)  # which checks its footer
        try:
            with open_regular(self.paths[number]) as file:
                source = import_pyarrow().ParquetFile(file)
                found = images_of(source, int(self.arrays["group"][group]), self.image)
        except (*broken(), BrokenColumn) as error:
            raise OSError(errno.EIO, f"its row group is broken: {printable(reason(error))}") from error
        if len(found) != rows or None in found:
            raise changed()
        return found

    def check(self, number: int, file: Opened) -> None:
        """Raise OSError where a file's footer is not that of the index."""
        if zlib.crc32(footer(file.read, file.size)) != self.arrays["footer"][number]:
            raise changed()

    def describe(self, i: int) -> str:
        """`row 12 of PATH/train-000.parquet`."""
        group = self.group_of_row[i]
        file = self.arrays["file"][group]
        first = self.arrays["first"][np.searchsorted(self.arrays["file"], file)]
        return f"in row {i - first} of {self.paths[file]}"


def changed() -> OSError:
    """For a file that is not what its index says."""
    return OSError(errno.EIO, "its file is damaged, or has changed since it was opened")


class Latest:
    """`make(key)` of the keys asked for last; where several threads ask for one, the first makes it and the others wait."""

    def __init__(self, make: Callable[[int], Any], most: int):
        self.make, self.most, self.lock = make, most, threading.Lock()
        self.known: dict[int, tuple[threading.Lock, list]] = {}  # the value, once it is made

    def __call__(self, key: int) -> Any:
        """What `make` returns or raises; what it raises is not kept."""
        with self.lock:
            lock, value = self.known[key] = self.known.pop(key, None) or (threading.Lock(), [])  # now the last one
            for old in list(self.known)[: -self.most]:
                del self.known[old]
        with lock:
            if not value:
                value.append(self.make(key))
        return value[0]

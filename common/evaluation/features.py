"""Features and logits of many images as an .npz file, which is written as they come."""

import contextlib
import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.data.split import MultiLabels
from common.system.errors import UserError
from common.system.files import write_atomically
from common.weights.containers import npz

PIECE_BYTES = 2**20  # of a column that are in memory at once
Column = np.ndarray | MultiLabels | Sequence[str]  # of a file: labels of several classes are written multi-hot
Outputs = tuple[np.ndarray, np.ndarray]  # features [B, D] and logits [B, K] of a batch


def unpadded(outputs: Iterator[Outputs], count: int) -> Iterator[Outputs]:
    """The same for `count` images, without the padding of the last batch."""
    for features, logits in outputs:
        yield features[:count], logits[:count]
        count -= len(logits)


def write_outputs(path: Path, outputs: Iterator[Outputs], count: int, **columns: Column) -> None:
    """Write an .npz of `features` and `logits` of `count` images, and of columns; memory holds one batch.

    UserError where it cannot be written.
    """
    with writing(path), tempfile.TemporaryFile(dir=path.parent) as kept:  # has no name, so nothing of it is ever left
        write_atomically(path, lambda file: fill_outputs(file, kept, outputs, count, columns))


def write_arrays(path: Path, columns: dict[str, Column], rows: "Growing | None" = None) -> None:
    """Write an .npz of columns, and first of `rows`, where there are some. UserError where it cannot be written."""

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            if rows:
                write_kept(archive, rows.name, rows.file, rows.dtype, (rows.count, *rows.shape))
            for name, column in columns.items():
                write_column(archive, name, column)

    with writing(path):
        write_atomically(path, write)


class Growing:
    """A column of an .npz whose rows come one after another, until `write_arrays`: a file without a name beside it holds them."""

    def __init__(self, name: str, path: Path):
        """UserError where the folder of `path`, which is made, cannot be written."""
        self.name, self.path, self.count, self.dtype, self.shape = name, path, 0, None, ()
        with writing(path):
            self.file = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115

    def add(self, row: np.ndarray) -> None:
        """One more. UserError where the disk is full."""
        with writing(self.path):
            self.file.write(row.tobytes())
        self.count, self.dtype, self.shape = self.count + 1, row.dtype, row.shape


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of a file that is written within; UserError where that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(f"Cannot write {path} ({error.strerror or error}); free or choose another place.") from error


def fill_outputs(
    file: BinaryIO, kept: BinaryIO, outputs: Iterator[Outputs], count: int, columns: dict[str, Column]
) -> None:
    """Write features as they come, while `kept` keeps the logits for later: an archive is written front to back."""
    with zipfile.ZipFile(file, "w") as archive:
        first = next(outputs)
        layout = {name: (rows.dtype, (count, *rows.shape[1:])) for name, rows in zip(("features", "logits"), first)}
        with npz.open_member(archive, "features", *layout["features"]) as member:
            for features, logits in itertools.chain([first], outputs):
                member.write(features.tobytes())
                kept.write(logits.tobytes())
        write_kept(archive, "logits", kept, *layout["logits"])
        for name, column in columns.items():
            write_column(archive, name, column)


def write_kept(archive: zipfile.ZipFile, name: str, kept: BinaryIO, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    """Write a column whose bytes `kept` has."""
    kept.seek(0)
    with npz.open_member(archive, name, dtype, shape) as member:
        shutil.copyfileobj(kept, member)


def write_column(archive: zipfile.ZipFile, name: str, column: Column) -> None:
    """Write a column, some rows at a time."""
    is_text = not isinstance(column, np.ndarray | MultiLabels)
    dtype = np.dtype(f"<U{max(map(len, column), default=1)}") if is_text else None

    def rows(some: slice) -> np.ndarray:
        found = column[some]
        return np.asarray(found.multi_hot() if isinstance(found, MultiLabels) else found, dtype)

    first = rows(slice(1))
    step = max(1, PIECE_BYTES // max(1, first.nbytes))
    with npz.open_member(archive, name, first.dtype, (len(column), *first.shape[1:])) as member:
        for start in range(0, len(column), step):
            member.write(rows(slice(start, start + step)).tobytes())

"""`parquet:PATH`: parquet files as Hugging Face `datasets` writes them, at random access; read by pyarrow, the extra `parquet`.

A row has an image, a column of structures whose `bytes` are those of an image file, and a label. The metadata that
`datasets` leaves name the columns and the classes; without them, columns are found by their types and names. No path
within a file is ever opened, and no value is ever unpickled.

What `datasets` writes today leaves images uncompressed, so that each is read by its offset. Where a column is compressed,
or encoded otherwise, a row group is read at once, and those used last are kept.
"""

import contextlib
import errno
import json
import os
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from common.data.blocks import Blocks
from common.data.sources import Places
from common.data.sources.index import Arrays, indexed
from common.data.sources.parquet_pages import BrokenColumn, Page, bytes_of_pages, pages
from common.data.sources.shards import Opened, Shards, dumped, find_shards, keep_open, numbered
from common.data.split import Dataset, Split
from common.system.errors import UserError, printable, reason
from common.system.files import MAX_READ_BYTES, open_regular
from common.system.progress import Count

PREFIX = "parquet:"
KEPT_BYTES = 2**28  # of row groups in memory that must be read at once
FOOTER_BYTES = 8  # the last: the footer's length, and PAR1
LABELS = ("label", "labels")
IMAGES = ("image", "img", "jpg", "png")
AGAIN = "write it again, as with `to_parquet` of Hugging Face `datasets`"


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
    for split, paths in shards.splits.items():
        own = {key.removeprefix(f"{split}/"): array for key, array in arrays.items() if key.startswith(f"{split}/")}
        rows = Rows(paths, own, arrays["image"].tobytes().decode())
        splits[split] = Split(rows.read, own["labels"], rows.describe, blocks=rows.blocks)
    return Dataset(PREFIX + name, tuple(json.loads(arrays["class_names"].tobytes())), splits)


def import_pyarrow() -> Any:
    """pyarrow.parquet. UserError where it is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("parquet: needs the package pyarrow; install it with `pip install pyarrow`.") from error
    return pyarrow.parquet


# --- reading


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
        if (arrays["start"] >= 0).all():
            self.blocks, most = Blocks.of_bytes(arrays["file"][self.group_of_row], arrays["start"]), 1
        else:
            most = int(max(2, KEPT_BYTES // max(1, arrays["unpacked"].mean())))
            self.blocks = Blocks(self.group_of_row, most // 2)  # the next ones begin while the last are still in use
        self.column = Latest(self.read_group, most)

    def read(self, i: int) -> bytes:
        """The bytes of example `i`, in any thread. Raises OSError where its file is not what was indexed."""
        group, start, size = self.group_of_row[i], int(self.arrays["start"][i]), int(self.arrays["size"][i])
        if start < 0:
            return self.column(int(group))[i - int(self.arrays["first"][group])].as_py()
        data = os.pread(self.opened(int(self.arrays["file"][group])).descriptor, 4 + size, start - 4)
        if len(data) < 4 + size or int.from_bytes(data[:4], "little") != size:
            raise changed()
        return data[4:]

    def read_group(self, group: int) -> Any:
        """pyarrow's array of the image files of one row group."""
        number = int(self.arrays["file"][group])
        self.opened(number)  # which checks its footer
        try:
            with open_regular(self.paths[number]) as file:
                source, group_of_file = import_pyarrow().ParquetFile(file), int(self.arrays["group"][group])
                column = column_of(source, group_of_file, self.image)
        except broken() as error:
            raise OSError(errno.EIO, f"its row group is broken: {printable(reason(error))}") from error
        if len(column) != self.arrays["first"][group + 1] - self.arrays["first"][group] or column.null_count:
            raise changed()
        return column

    def check(self, number: int, file: Opened) -> None:
        """Raise OSError where a file's footer is not that of the index."""
        size = os.fstat(file.descriptor).st_size
        if (
            zlib.crc32(footer(lambda place, count: os.pread(file.descriptor, count, place), size))
            != self.arrays["footer"][number]
        ):
            raise changed()

    def describe(self, i: int) -> str:
        """`row 12 of PATH/train-000.parquet`."""
        group = self.group_of_row[i]
        file = self.arrays["file"][group]
        first = self.arrays["first"][np.searchsorted(self.arrays["file"], file)]
        return f"in row {i - first} of {self.paths[file]}"


def column_of(source: Any, group: int, image: str) -> Any:
    """pyarrow's array of the image files of one row group of a file."""
    column = source.read_row_group(group, columns=[image], use_threads=False).column(0).combine_chunks()
    return column.field("bytes") if "." in image else column


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


def footer(read: Callable[[int, int], bytes], size: int) -> bytes:
    """The end of a file of `size` bytes, where parquet says what it holds; short where it is cut off."""
    end = read(max(0, size - FOOTER_BYTES), FOOTER_BYTES)
    length = min(int.from_bytes(end[:4], "little"), size, MAX_READ_BYTES)
    return read(max(0, size - FOOTER_BYTES - length), length + FOOTER_BYTES)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What pyarrow raises for a broken file becomes a UserError."""
    try:
        yield
    except (*broken(), BrokenColumn) as error:
        raise UserError(
            f"The file {path} is no whole parquet file ({printable(reason(error))}); fetch it again, or {AGAIN}."
        ) from error


def broken() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a broken file."""
    import pyarrow

    return pyarrow.ArrowException, EOFError, OSError


# --- the pass over columns


class Columns(NamedTuple):
    """Which leaves of a file's schema hold what; the names of classes where the file states them."""

    image: str
    label: str
    class_names: tuple[str, ...] | None


def scan(shards: Shards) -> Arrays:
    """What `Rows` needs of every split, with `labels` int32 [N]; `class_names` as JSON, and the column `image`.

    UserError where files are broken, or do not belong together.
    """
    arrays, labels, columns, count_bytes = {}, {}, None, sum(path.stat().st_size for path in shards.watched)
    with Count(f"indexing {shards.name}", count_bytes, "B") as count:
        for split, paths in shards.splits.items():
            found, labels[split] = [], []
            for number, path in enumerate(paths):
                with open_regular(path) as file, reading(path):
                    source = import_pyarrow().ParquetFile(file)
                    own = find_columns(source, path)
                    if columns and own != columns:
                        raise UserError(f"The file {path} has other columns or classes than those before it; {AGAIN}.")
                    columns = own
                    found.append(scan_file(source, file, own, path, number))
                    labels[split] += read_labels(source, file, own, path)
                count.advance(path.stat().st_size)
            joined = {key: np.concatenate([part[key] for part in found]) for key in found[0]}
            joined["first"] = np.concatenate([[0], np.cumsum(joined.pop("rows"), dtype=np.int64)])
            arrays |= {f"{split}/{key}": array for key, array in joined.items()}
            if not labels[split]:
                raise UserError(
                    f"The split {split} of {PREFIX}{shards.name} has no rows; add some, or name other files."
                )
    class_names, numbers = numbered(shards, labels, columns.class_names)
    arrays |= {f"{split}/labels": own for split, own in numbers.items()}
    return arrays | {"class_names": dumped(class_names), "image": np.frombuffer(columns.image.encode(), np.uint8)}


def find_columns(source: Any, path: Path) -> Columns:
    """By the metadata of `datasets`, or else by types and names. UserError where that is not one image and one label."""
    import pyarrow

    schema = source.schema_arrow
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
        kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"The metadata `huggingface` of {path} cannot be read; {AGAIN}.") from error
    types = {field.name: field.type for field in schema}
    holding = [
        name for name, kind in types.items() if pyarrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    ]
    holding += [name for name, kind in types.items() if name in IMAGES and is_bytes(kind)]
    classes = [name for name, kind in kinds.items() if kind == "ClassLabel" and name in types]
    classes = classes or [name for name in types if name in LABELS]
    image, label = only(holding, IMAGES, "images", path), only(classes, LABELS, "labels", path)
    names = features.get(label, {}).get("names")
    names = tuple(map(str, names)) if isinstance(names, list) else None
    return Columns(image if is_bytes(types[image]) else f"{image}.bytes", label, names)


def is_bytes(kind: Any) -> bool:
    """Whether a type of pyarrow is that of bytes."""
    import pyarrow

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)


def only(found: list[str], usual: tuple[str, ...], what: str, path: Path) -> str:
    """The one column, or the first that has a usual name. UserError where none is."""
    chosen = next((name for name in usual if name in found), found[0] if len(found) == 1 else None)
    if chosen is None:
        raise UserError(
            f"The file {path} has {len(found)} columns of {what}{': ' * bool(found)}{printable(', '.join(found))}, expected "
            f"one, or one called {' or '.join(usual)}; rename or remove columns, and {AGAIN}."
        )
    return chosen


def scan_file(source: Any, file: BinaryIO, columns: Columns, path: Path, number: int) -> Arrays:
    """The row groups of one file and the places of its images, as `Rows` takes them, with the `rows` of each group.

    Raises UserError for an image that is only a path; BrokenColumn.
    """
    facts, starts, sizes, unpacked = source.metadata, [], [], []
    leaf = leaf_of(facts, columns.image)
    num_levels = int(facts.schema.column(leaf).max_definition_level > 0)
    rows = [facts.row_group(group).num_rows for group in range(facts.num_row_groups)]
    for group, count in enumerate(rows):
        found = pages_of(facts.row_group(group).column(leaf), file)
        plain = facts.row_group(group).column(leaf).compression == "UNCOMPRESSED"
        places = bytes_of_pages(file, found, num_levels) if plain else None
        if places is None or len(places[0]) < count:
            check_nulls(source, group, columns.image, path)
            places = np.full((2, count), -1, np.int64)
        if len(places[0]) > count:
            raise BrokenColumn(f"{len(places[0])} images in a group of {count} rows")
        unpacked.append(sum(page.unpacked for page in found))
        starts.append(places[0])
        sizes.append(places[1])
    end = footer(lambda place, count: file.seek(place) * 0 or file.read(count), os.fstat(file.fileno()).st_size)
    return {
        "footer": np.array([zlib.crc32(end)], np.uint32),
        "file": np.full(len(rows), number, np.int32),
        "group": np.arange(len(rows), dtype=np.int32),
        "rows": np.array(rows, np.int64),
        "unpacked": np.array(unpacked, np.int64),
        "start": np.concatenate([*starts, np.empty(0, np.int64)]),
        "size": np.concatenate([*sizes, np.empty(0, np.int64)]),
    }


def leaf_of(facts: Any, column: str) -> int:
    """The number of a column among those that hold values."""
    return next(i for i in range(facts.num_columns) if facts.schema.column(i).path == column)


def pages_of(column: Any, file: BinaryIO) -> list[Page]:
    """The pages of a column in a row group, which together need no more memory than a file may. Raises BrokenColumn."""
    if not column.num_values:
        return []
    start = min(column.data_page_offset, column.dictionary_page_offset or column.data_page_offset)
    size, end = os.fstat(file.fileno()).st_size, start + column.total_compressed_size
    if not 0 <= start <= end <= size:
        raise BrokenColumn(f"the column {column.path_in_schema} ends at byte {end:,} of {size:,}")
    found = [*pages(file, start, end)]
    unpacked = sum(page.unpacked for page in found)
    if unpacked > MAX_READ_BYTES:
        raise BrokenColumn(f"a row group of {unpacked:,} bytes, expected at most {MAX_READ_BYTES:,}")
    return found


def check_nulls(source: Any, group: int, image: str, path: Path) -> None:
    """Raise UserError for the first row that holds no bytes of its image."""
    facts = source.metadata.row_group(group).column(leaf_of(source.metadata, image)).statistics
    if facts is not None and facts.has_null_count and not facts.null_count:
        return
    missing = column_of(source, group, image).is_null().to_numpy(zero_copy_only=False)
    if missing.any():
        before = sum(source.metadata.row_group(i).num_rows for i in range(group))
        raise UserError(
            f"Row {before + int(missing.argmax())} of {path} holds no bytes of its image, at most a path, which is not "
            f"followed; {AGAIN} after reading the images with `embed_table_storage`."
        )


def read_labels(source: Any, file: BinaryIO, columns: Columns, path: Path) -> list[int | str]:
    """The label of every row. UserError where one is none; BrokenColumn."""
    import pyarrow

    leaf = leaf_of(source.metadata, columns.label)
    for group in range(source.metadata.num_row_groups):
        pages_of(source.metadata.row_group(group).column(leaf), file)  # before pyarrow takes memory for them
    column, types = source.read(columns=[columns.label], use_threads=False).column(0), pyarrow.types
    where = f"The column {printable(columns.label)} of {path}"
    if not (types.is_integer(column.type) or types.is_string(column.type) or types.is_large_string(column.type)):
        raise UserError(f"{where} holds {column.type}, expected numbers or names of classes; {AGAIN}.")
    found = column.to_pylist()
    row = next((row for row, label in enumerate(found) if label is None or label in ("", -1)), None)
    if row is not None:
        raise UserError(f"{where} holds {found[row]!r} in row {row}, expected a class; label the row or leave it out.")
    return found
